"""What tests do with a page in a browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import Service
from tests.uploads import list_all_jobs


@contextmanager
def run_jobs(service: Service) -> Iterator[None]:
    """Run every job that is submitted, in a thread."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.05):
            with service.database.read() as connection:
                waiting = list_all_jobs(connection)
            for job in waiting:
                run_job(service, job.job_id, "test")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def check(browser: Any, axe: str) -> list[str]:
    """Return what axe finds wrong with the page."""
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(axe)
    found = browser.execute_async_script(
        "axe.run().then(arguments[arguments.length - 1], (error) => { throw error; })"
    )
    return [
        f"{violation['id']}: {node['html']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def list_requests(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [message["params"]["request"]["url"] for message in sent]
