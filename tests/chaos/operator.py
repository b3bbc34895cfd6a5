"""An operator who looks at the admin pages, and pauses and resumes the workers, through chaos."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import httpx

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.servers.processes import wait_for

PAGES = ("/admin", "/admin/jobs", "/admin/jobs?status=failed", "/admin/images", "/admin/webhooks")
ACTIONS = ("/admin/pause", "/admin/resume", "/admin/jobs/retry")  #: in turns
OWN = {"Sec-Fetch-Site": "same-origin"}
PAUSE_SECONDS = 0.3
RESUME_SECONDS = 60  #: a service that was killed starts within seconds


@contextmanager
def operating(address: str, key: str, chance: random.Random) -> Iterator[Counter[int]]:
    """Let an operator act during the body; yield how often each status was answered.

    At the end, the workers are not paused.
    """
    answered: Counter[int] = Counter()
    stopping = threading.Event()
    token = sign_token(Settings.model_validate({"jwt_secret_key": key}), "olga", admin=True)

    def act() -> None:
        for action in cycle(ACTIONS):
            if stopping.wait(PAUSE_SECONDS):
                return
            try:
                with httpx.Client(base_url=address, headers=OWN, timeout=20) as client:
                    client.post("/admin/login", data={"token": token})
                    answered[client.get(chance.choice(PAGES)).status_code] += 1
                    answered[client.post(action).status_code] += 1
            except httpx.TransportError:  # the process was killed
                continue

    def resume() -> bool:
        try:
            with httpx.Client(base_url=address, headers=OWN, timeout=20) as client:
                client.post("/admin/login", data={"token": token})
                return client.post("/admin/resume").status_code == httpx.codes.SEE_OTHER
        except httpx.TransportError:
            return False

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield answered
    finally:
        stopping.set()
        thread.join()
        wait_for(resume, RESUME_SECONDS)
