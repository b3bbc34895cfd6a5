"""`serve` and `worker` in real processes: their output, and how they stop without leftovers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import httpx
import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import open_service
from imageprocessor.storage.protocol import MARKER_NAME
from imageprocessor.tokens import sign_token
from tests.cli.conftest import Run
from tests.images import encode, photo
from tests.server.live import wire
from tests.uploads import list_all_jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SLOW = '{"original": {"width": 4096, "quality": 100, "effort": 6}}'

# Loading certificates takes 0.07 s, most of the time of a request.
WITHOUT_TLS: Any = {"timeout": 30, "verify": False}

Start = Callable[..., "Running"]


@dataclass(frozen=True, slots=True)
class Running:
    """A command in its own session, as in a terminal of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def err(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        """The address in the banner, which this waits for."""
        wait_for(lambda: "Try it" in self.err or self.process.poll() is not None)
        found = re.search(r"listens on  (\S+)", self.err)
        assert found, self.err
        return found[1]

    def members(self) -> list[int]:
        """Return the live processes of the session, whoever their parent is now."""
        stats = [
            _read_stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal()
        ]
        return [
            int(stat[0])
            for stat in stats
            if stat and int(stat[5]) == self.process.pid and stat[2] != "Z"
        ]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to all processes of the session, as Ctrl-C does; return the exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(40)


def _read_stat(pid: int) -> list[str]:
    with suppress(OSError):
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        return [before.split()[0], "", *after.split()]
    return []


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.02)


def wait_until_gone(running: Running) -> None:
    """Wait until all processes have ended.

    A process that is just starting, or only tracks others, ends a little later than the rest.
    """
    wait_for(lambda: not running.members(), 20)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a command with settings; after the test, kill the processes that are left."""
    started: list[Running] = []

    def run(*arguments: str, **settings: str) -> Running:
        log = folder / f"stderr-{len(started)}"
        command = [sys.executable, "-m", "imageprocessor", *arguments]
        with log.open("wb") as err, (folder / "stdout").open("wb") as out:
            environ = {**os.environ, "PYTHONUNBUFFERED": "1", **settings}
            process = subprocess.Popen(
                command, stdout=out, stderr=err, env=environ, start_new_session=True
            )
        started.append(Running(process, log))
        return started[-1]

    yield run
    for running in started:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


@pytest.fixture
def serve(start: Start) -> Start:
    """Start a service on a free port, with one worker."""

    def run(*arguments: str, **settings: str) -> Running:
        one_worker = {"WORKER_CONCURRENCY": "1", "IMAGE_SIZES": '{"thumbnail": 20}'}
        return start("serve", "--port", "0", *arguments, **{**one_worker, **settings})

    return run


def get(url: str) -> httpx.Response:
    return httpx.get(url, **WITHOUT_TLS)


def upload(url: str, data: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {sign_token(load_settings({}), 'me')}"}
    form: Any = {"data": {"bucket": "photos"}, "files": {"file": ("photo.jpg", data)}}
    return httpx.post(f"{url}/api/v1/images/upload", headers=headers, **form, **WITHOUT_TLS)


def upload_and_wait(url: str) -> str:
    """Upload a photo, wait until its job has ended, and return the job's status."""
    answer = upload(url, encode(photo(200, 100), "JPEG"))
    assert answer.status_code == 202, answer.text
    status_url = f"{url}/api/v1/images/jobs/{answer.json()['job_id']}"
    wait_for(lambda: get(status_url).json()["status"] in {"completed", "failed"})
    return str(get(status_url).json()["status"])


def only_job() -> Job:
    with open_service(load_settings({})) as service, service.database.read() as connection:
        (job,) = list_all_jobs(connection)
    return job


def test_serve_works_in_an_empty_folder_and_stops_cleanly_on_interrupt(
    start: Start, folder: Path
) -> None:
    running = start("serve", "--port", "0")
    assert upload_and_wait(running.url) == "completed"
    assert len(running.members()) >= 3  # itself and two workers
    assert running.stop() == 0, running.err
    wait_until_gone(running)
    assert "Traceback" not in running.err
    assert (folder / "stdout").read_bytes() == b""
    data = folder / "data"
    assert {"processor.db", "storage", "staging", "jwt_secret_key"} <= {
        path.name for path in data.iterdir()
    }
    assert len(list(data.glob("storage/photos/processed/*/*.webp"))) == 4
    waiting = [path.name for path in data.glob("staging/**/*") if path.is_file()]
    assert waiting == [MARKER_NAME]
    assert not list((data / "workers").iterdir())


@pytest.mark.parametrize("delay_seconds", [0.0, 0.3, 0.6, 1.0])
def test_early_interrupt_leaves_neither_process_nor_traceback(
    serve: Start, delay_seconds: float
) -> None:
    running = serve()
    assert running.url
    time.sleep(delay_seconds)
    assert running.stop() == 0, running.err
    wait_until_gone(running)
    assert "Traceback" not in running.err


def test_terminated_service_refuses_connections_and_finishes_its_job(serve: Start) -> None:
    running = serve("--api-processes", "2", IMAGE_SIZES=SLOW)
    answer = upload(running.url, encode(photo(2000, 1500), "JPEG"))
    job_url = f"{running.url}/api/v1/images/jobs/{answer.json()['job_id']}"
    wait_for(lambda: get(job_url).json()["status"] == "processing")
    os.killpg(running.process.pid, signal.SIGTERM)
    url = f"{running.url}/livez"
    # Until a connection is refused; or reset, if it had not been accepted when the socket closed.
    with pytest.raises((httpx.ConnectError, httpx.ReadError)):
        deque(map(get, repeat(url)))
    assert running.process.wait(40) == 0
    wait_until_gone(running)
    assert "Traceback" not in running.err
    job = only_job()
    assert (job.status.value, job.attempts) == ("completed", 1)


def test_second_interrupt_ends_at_once_and_a_restart_finishes_the_job(serve: Start) -> None:
    running = serve(IMAGE_SIZES=SLOW)
    answer = upload(running.url, encode(photo(2000, 1500), "JPEG"))
    job_url = f"{running.url}/api/v1/images/jobs/{answer.json()['job_id']}"
    wait_for(lambda: get(job_url).json()["status"] == "processing")
    os.killpg(running.process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert running.stop() == 130
    wait_until_gone(running)
    assert "Traceback" not in running.err
    assert only_job().status.value == "processing"
    again = serve()
    job_url = job_url.replace(running.url, again.url)
    wait_for(lambda: get(job_url).json()["status"] == "completed")
    again.process.terminate()  # its main process only
    assert again.process.wait(30) == 0
    wait_until_gone(again)


@pytest.mark.parametrize("arguments", [(), ("--api-processes", "2"), ("--reload",)])
def test_killed_service_leaves_no_process(serve: Start, arguments: tuple[str, ...]) -> None:
    running = serve(*arguments)
    assert upload_and_wait(running.url) == "completed"
    running.process.kill()
    running.process.wait()
    wait_until_gone(running)


def test_several_api_processes_answer_and_stop_cleanly_on_interrupt(serve: Start) -> None:
    running = serve("--api-processes", "2")
    assert upload_and_wait(running.url) == "completed"
    assert len(running.members()) >= 4  # itself, two that answer, a worker
    assert running.stop() == 0
    wait_until_gone(running)
    assert "Traceback" not in running.err


def test_idle_connection_is_closed_in_time_and_a_killed_api_process_is_replaced(
    serve: Start,
) -> None:
    running = serve("--api-processes", "2", WORKER_CONCURRENCY="0", KEEP_ALIVE_SECONDS="1")
    assert get(f"{running.url}/livez").status_code == 200
    check_idle_connection(running)
    before = running.members()
    listening = [
        pid for pid in before if pid != running.process.pid and "spawn_main" in _command(pid)
    ]
    os.kill(listening[0], signal.SIGKILL)
    wait_for(lambda: "was killed by signal 9" in running.err)
    wait_for(lambda: len(running.members()) == len(before))
    assert get(f"{running.url}/livez").status_code == 200


def check_idle_connection(running: Running) -> None:
    """Check that a connection is closed a second after its last answer."""
    with wire(httpx.URL(running.url).port or 80) as line:
        line.send(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
        assert line.answer("GET")[0].status == 200
        answered = time.monotonic()
        line.connection.settimeout(4)
        assert line.connection.recv(1) == b""
    assert 0.7 < time.monotonic() - answered < 3


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_reload_serves_and_stops_cleanly(serve: Start) -> None:
    running = serve("--reload")
    assert upload_and_wait(running.url) == "completed"
    assert running.stop() == 0, running.err
    wait_until_gone(running)


def test_service_stops_if_its_workers_fail(serve: Start, folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/workers").write_text("a file where the folder of the workers should be")
    running = serve()
    assert running.process.wait(30) == 1
    wait_until_gone(running)
    assert "workers_failed" in running.err
    assert running.err.endswith(
        "error: The workers failed, so the service was stopped. The log has the cause.\n"
    )


def test_port_in_use_is_an_error_with_a_remedy(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = start("serve", "--port", port)
        assert running.process.wait(30) == 1
    assert f"error: Cannot listen on port {port} of 127.0.0.1" in running.err
    assert "--port" in running.err
    assert "Traceback" not in running.err


def test_wrong_settings_stop_the_service_before_it_creates_anything(
    start: Start, folder: Path
) -> None:
    running = start("serve", WEBP_QUALITY="900", JWT_SECRET_KEY="short")
    assert running.process.wait(30) == 2
    assert "WEBP_QUALITY='900'" in running.err
    assert "JWT_SECRET_KEY=(hidden)" in running.err
    assert not (folder / "data").exists()


def test_worker_processes_uploads_of_a_service_without_workers(
    start: Start, serve: Start, run: Run
) -> None:
    api = serve(WORKER_CONCURRENCY="0")
    worker = start("worker", WORKER_CONCURRENCY="1")
    assert upload_and_wait(api.url) == "completed"
    assert worker.stop() == 0
    wait_until_gone(worker)
    assert "Traceback" not in worker.err
    assert run("jobs", "list", "--json").json[0]["status"] == "completed"


def test_killed_worker_command_leaves_no_process(start: Start) -> None:
    worker = start("worker")
    wait_for(lambda: len(worker.members()) >= 3)
    worker.process.kill()
    worker.process.wait()
    wait_until_gone(worker)
