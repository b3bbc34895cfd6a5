"""A service is stopped under load, as a deployment does several times a day."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.service import open_service
from tests.chaos.ledger import Ledger, check_consistency
from tests.chaos.test_random_kills import Program
from tests.e2e.deployments import KEY, SERVE, connect, upload
from tests.images import encode, photo
from tests.servers import find_free_port
from tests.servers.processes import wait_for
from tests.uploads import list_all_jobs

STOP_SECONDS = 35


@pytest.mark.parametrize("api_processes", ["1", "2"])
def test_service_stopped_at_peak_load_answers_what_it_accepted(
    api_processes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = find_free_port()
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_KEY": KEY,
        "WORKER_CONCURRENCY": "1",
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
        "IMAGE_SIZES": '{"thumbnail": 20, "medium": 60}',
    }
    program = Program(
        [*SERVE, "--port", str(port), "--api-processes", api_processes],
        tmp_path / "serve.log",
        settings,
    )
    ledger = Ledger(f"http://127.0.0.1:{port}", encode(photo(300, 200), "JPEG"))
    stopping, statuses = threading.Event(), list[int]()

    program.start()
    assert program.process
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(upload_repeatedly, ledger, statuses, stopping)
        wait_for(lambda: len(ledger.accepted) > 20)
        started = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(STOP_SECONDS) == 0, (
            f"it took {time.monotonic() - started:.1f} s"
        )
        stopping.set()
    assert set(statuses) == {202}
    program.start()
    wait_for(ledger.has_ended)
    assert ledger.statuses() == {"completed"}
    program.end()
    monkeypatch.setattr(ledger, "accepted", ledger.accepted | find_unanswered(settings, ledger))
    check_consistency(settings, ledger, monkeypatch)


def upload_repeatedly(ledger: Ledger, statuses: list[int], stopping: threading.Event) -> None:
    """Upload until *stopping* is set; record the status of every answer."""
    with connect(ledger.url, "me") as http:
        while not stopping.is_set():
            with suppress(httpx.TransportError):  # refused, or disconnected before it was accepted
                answer = upload(http, ledger.photo)
                statuses.append(answer.status_code)
                if answer.status_code == 202:
                    ledger.accepted[uuid.uuid4().hex] = answer.json()["job_id"]


def find_unanswered(settings: dict[str, str], ledger: Ledger) -> dict[str, str]:
    """Return the jobs whose 202 never arrived.

    A client that retries with an Idempotency-Key receives it.
    """
    with open_service(load_settings(settings)) as service, service.database.read() as connection:
        ids = {job.job_id for job in list_all_jobs(connection)}
    return {job_id: job_id for job_id in ids - set(ledger.accepted.values())}
