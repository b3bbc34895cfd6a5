"""Whatever is killed, and however often, every accepted upload ends once, and its webhook arrives.

Meanwhile an operator looks at the admin pages, pauses and resumes.

CHAOS_IMAGES: how many to upload; `nox -s chaos` uploads 1000.
"""

from __future__ import annotations

import operator
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import pytest

from imageprocessor.queue.metrics.counts import read_totals
from tests.chaos.ledger import Ledger, check_consistency
from tests.chaos.listener import Listener, check_deliveries, count_waiting, listening
from tests.chaos.operator import operating
from tests.conftest import require_program
from tests.e2e.deployments import CELERY_WORKER, KEY
from tests.images import encode, photo
from tests.servers import create_database, find_free_port
from tests.servers.processes import wait_for
from tests.servers.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

IMAGES = int(os.environ.get("CHAOS_IMAGES", "12"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
UPLOADERS = 4
SERVE = [sys.executable, "-m", "tests.chaos.hurried", "serve"]
SECONDS_BETWEEN_KILLS = (0.5, 3.0)  # a service takes 2 s to start


@dataclass(slots=True)
class Program:
    """A program in its own session, restarted whenever it has been killed."""

    command: list[str]
    log: Path
    environ: Mapping[str, str]
    process: Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = Popen(
                self.command,
                stdout=output,
                stderr=output,
                stdin=DEVNULL,
                env={**os.environ, **self.environ},
                cwd=self.log.parent,
                start_new_session=True,
            )

    def ensure_running(self) -> None:
        time.sleep(0.05)  # a killed process takes a moment to end
        if self.process is None or self.process.poll() is not None:
            self.start()

    def members(self) -> list[int]:
        """Return the live processes of the program: its own and those that it started."""
        return [
            pid for pid in list_processes() if self.process and session_of(pid) == self.process.pid
        ]

    def end(self) -> None:
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()


def list_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


@contextmanager
def killing(
    programs: list[Program], ledger: Ledger, counted: Path, chance: random.Random
) -> Iterator[list[int]]:
    """During the body, kill random processes and restart the programs that have ended.

    No count in the folder *counted* may fall.

    Pauses grow until an upload is accepted: on a busy machine, services that start would be killed
    for minutes. Yield the process ids of the killed ones.
    """
    killed: list[int] = []
    fallen: list[Any] = []
    stopping = threading.Event()

    def kill() -> None:
        factor, accepted = 1.0, 0
        counts: dict[Any, list[float]] = {}
        while not stopping.wait(factor * chance.uniform(*SECONDS_BETWEEN_KILLS)):
            factor = 1.0 if len(ledger.accepted) > accepted else 1.5 * factor
            accepted = len(ledger.accepted)
            members = [pid for program in programs for pid in program.members()]
            if members:
                victim = chance.choice(members)
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)
            before, counts = counts, read_totals(counted)
            for series, numbers in before.items():
                if any(map(operator.lt, counts[series], numbers)):
                    fallen.append(series)
            for program in programs:
                program.ensure_running()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stopping.set()
        thread.join()
        for program in programs:
            program.ensure_running()


@pytest.fixture(params=["embedded", "celery", "celery on postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    chosen = {
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_KEY": KEY,
        "WORKER_CONCURRENCY": "2",
        "MAX_RETRIES": "20",  # each kill costs an attempt
        "JOB_TIMEOUT_SECONDS": "5",  # jobs of a killed worker host return 15 s later
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
        "METRICS_PORT": str(find_free_port()),
        "ADMIN_UI": "true",
    }
    if "celery" in request.param:
        chosen |= {
            "QUEUE_BACKEND": "celery",
            "REDIS_URL": f"redis://127.0.0.1:{find_free_port()}/0",
        }
    if "postgresql" in request.param:
        chosen["DATABASE_URL"] = create_database(request.getfixturevalue("postgres"))
    return chosen


@pytest.fixture
def port() -> int:
    return find_free_port()


@pytest.fixture
def listener(settings: dict[str, str]) -> Iterator[tuple[Listener, WebhookReceiver]]:
    with listening(settings, SEED) as pair:
        yield pair


@pytest.fixture
def programs(
    settings: dict[str, str],
    port: int,
    listener: tuple[Listener, WebhookReceiver],  # the first to use the database
    tmp_path: Path,
) -> Iterator[list[Program]]:
    serve = [*SERVE, "--port", str(port), "--api-processes", "2"]
    environ = {**settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [Program(serve, tmp_path / "serve.log", environ)]
    if settings.get("QUEUE_BACKEND") == "celery":
        running.append(Program(CELERY_WORKER, tmp_path / "worker.log", settings))
        redis_port = settings["REDIS_URL"].rpartition(":")[2].removesuffix("/0")
        redis = [
            require_program("redis-server"),
            "--port",
            redis_port,
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
        ]
        running.append(Program(redis, tmp_path / "redis.log", {}))
    for program in running:
        program.start()
    yield running
    for program in running:
        program.end()


def test_every_202_ends_once_and_is_reported(
    settings: dict[str, str],
    port: int,
    programs: list[Program],
    listener: tuple[Listener, WebhookReceiver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"http://127.0.0.1:{port}"
    ledger = Ledger(address, encode(photo(900, 700), "JPEG"))
    counted = Path(settings["DATA_DIR"]) / "metrics"
    started = time.monotonic()
    with (
        operating(address, KEY, random.Random(SEED)) as answered,
        killing(programs, ledger, counted, random.Random(SEED)) as killed,
        ThreadPoolExecutor(UPLOADERS) as pool,
    ):
        for future in [pool.submit(ledger.send) for _ in range(IMAGES)]:
            future.result()
    wait_for(ledger.has_ended, 120 + IMAGES)
    wait_for(lambda: count_waiting(settings) == 0, 120 + IMAGES)
    for program in programs:
        program.end()
    assert len(ledger.accepted) == IMAGES
    assert killed, f"nothing was killed in {time.monotonic() - started:.0f} s"
    assert {200, 303} <= set(answered) <= {200, 303, 503}, answered
    check_deliveries(settings, *listener)
    check_consistency(settings, ledger, monkeypatch)
