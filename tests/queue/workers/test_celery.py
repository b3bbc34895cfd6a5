"""Jobs run by Celery's own worker, a process of its own, over a real Redis."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from imageprocessor.environment import load_settings
from imageprocessor.errors import BrokerUnavailableError, DecodeTimeoutError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch.broker import DATABASE_KEY
from imageprocessor.queue.dispatch.celery_client import RUN_JOB, create_celery
from imageprocessor.queue.dispatch.publisher import MAX_WAITING
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.pause import pause, resume
from imageprocessor.queue.service import Service
from imageprocessor.queue.workers.celery_worker import time_limit
from imageprocessor.settings import Settings
from tests.images import encode, photo, truncated
from tests.queue.conftest import Submit
from tests.queue.workers.test_supervisor import find, wait_for, wait_for_status
from tests.servers import Server, find_free_port, run_redis, run_server
from tests.uploads import submit_to

COMMAND = [sys.executable, "-m", "celery", "-A", "imageprocessor.queue.celery_app", "worker"]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path, redis: Server) -> dict[str, str]:
    """The settings of a service whose Redis starts empty."""
    flush(redis)
    return {
        "DATA_DIR": str(tmp_path / "data"),
        "QUEUE_BACKEND": "celery",
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "IMAGE_SIZES": '{"thumbnail": 20, "medium": 60}',
        "JOB_TIMEOUT_SECONDS": "2",
        "MAX_RETRIES": "1",
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return load_settings(environment)


@dataclass(slots=True)
class Worker:
    """A running Celery worker and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


Start = Callable[..., Worker]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start a worker with changed settings, and wait until it is ready."""
    started: list[Worker] = []

    def run(*arguments: str, waits: bool = True, **changes: str) -> Worker:
        log = tmp_path / f"worker-{len(started)}.log"
        command = [*COMMAND, "--concurrency=1", "-n", f"{len(started)}@%h", *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment, **changes},
                stdout=output,
                stderr=output,
                cwd=tmp_path,
            )
        started.append(Worker(process, log))
        if waits:
            wait_for(lambda: " ready." in log.read_text())
        return started[-1]

    yield run
    for worker in started:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def sweeper(service: Service) -> Iterator[None]:
    """The sweeper, which `serve` runs next to the API."""
    running = Sweeper(service)
    thread = threading.Thread(target=running.run)
    thread.start()
    yield
    running.stop()
    thread.join()


def flush(redis: Server) -> None:
    subprocess.run(
        ["redis-cli", "-p", str(redis.port), "FLUSHALL"], check=True, capture_output=True
    )


def list_event_types(service: Service, job: Job) -> list[str]:
    with service.database.read() as connection:
        return [event["event_type"] for event in outbox.list_events(connection, job.job_id)]


def test_jobs_run_and_processes_are_counted(
    service: Service, submit_image: Submit, start: Start
) -> None:
    worker = start("--concurrency=2")
    jobs = [submit_image() for _ in range(6)]
    for job in jobs:
        assert wait_for_status(service, job, JobStatus.COMPLETED).attempts == 1
    assert service.dispatcher.count_workers() == 2
    check_pause(service)
    assert worker.stop() == 0
    assert "Traceback" not in worker.log.read_text()


def check_pause(service: Service) -> None:
    """Check that a running worker begins no job during a pause, and all afterwards."""
    pause(service, None)
    job = submit_to(service)
    wait_for(lambda: service.dispatcher.count_redispatchable() == MAX_WAITING)  # it was received
    time.sleep(0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "utc_now", lambda: datetime.now(UTC) + timedelta(seconds=11))
        assert sweep(service)["overlooked_jobs"] == 0
    assert find(service, job).status is JobStatus.PENDING
    resume(service, None)
    wait_for_status(service, job, JobStatus.COMPLETED)


def test_child_has_the_memory_limit(start: Start) -> None:
    worker = start(JOB_MEMORY_LIMIT_MB="1024")
    (child,) = worker.children()
    limits = Path(f"/proc/{child}/limits").read_text()
    assert str(1024 * 1024 * 1024) in next(
        line for line in limits.splitlines() if "address space" in line
    )


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is configured to keep memory"
)
def test_child_returns_memory_only_after_a_failed_job(
    service: Service, submit_image: Submit, start: Start
) -> None:
    worker = start(JOB_TIMEOUT_SECONDS="60", IMAGE_SIZES='{"whole": 4000}')
    (child,) = worker.children()
    wait_for_status(service, submit_image(encode(photo(4000, 3000), "JPEG")), JobStatus.COMPLETED)
    kept = resident_mb(child)
    wait_for_status(
        service, submit_image(truncated(encode(photo(300, 200), "JPEG"), 0.6)), JobStatus.FAILED
    )
    assert kept > resident_mb(child) + 60


def resident_mb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def test_message_received_five_times_runs_once(
    service: Service, submit_image: Submit, start: Start, settings: Settings
) -> None:
    job, app = submit_image(), create_celery(settings)
    for _ in range(4):
        app.send_task(RUN_JOB, [job.job_id])
    start("--concurrency=2")
    last = submit_image()
    wait_for_status(service, last, JobStatus.COMPLETED)
    wait_for_status(service, job, JobStatus.COMPLETED)
    assert list_event_types(service, job) == ["upload_initiated", "processing_started", "completed"]


def test_lost_message_is_sent_again_by_the_sweep(
    service: Service,
    submit_image: Submit,
    start: Start,
    redis: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start()
    with monkeypatch.context() as patch:
        patch.setattr(
            type(service.dispatcher), "dispatch", lambda *_: None
        )  # it never reaches Redis
        job = submit_image()
    flush(redis)
    assert sweep(service)["overlooked_jobs"] == 0, "its message may still arrive"
    with monkeypatch.context() as patch:
        patch.setattr(clock, "utc_now", lambda: datetime.now(UTC) + timedelta(seconds=11))
        assert sweep(service)["overlooked_jobs"] == 1
    wait_for_status(service, job, JobStatus.COMPLETED)


def test_dispatcher_has_no_room_while_many_messages_wait(
    service: Service, submit_image: Submit, start: Start
) -> None:
    job = submit_image()
    for _ in range(MAX_WAITING):
        service.dispatcher.dispatch(job.job_id)
    wait_for(lambda: service.dispatcher.count_redispatchable() == 0)


def test_one_child_serves_the_metrics_and_another_takes_over(
    service: Service, submit_image: Submit, start: Start, settings: Settings
) -> None:
    port = find_free_port()
    worker = start("--concurrency=2", METRICS_PORT=str(port))
    wait_for_status(service, submit_image(), JobStatus.COMPLETED)
    lock = settings.data_dir / "metrics" / "port.lock"
    holder = int(lock.read_text())
    assert holder in worker.children()
    os.kill(holder, signal.SIGKILL)
    wait_for(lambda: lock.read_text().strip() != str(holder))
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert 'imageprocessor_jobs_total{outcome="completed",code=""} 1.0' in page
    assert "imageprocessor_workers 2" in page


def test_killed_child_costs_one_attempt_at_once(
    service: Service, submit_image: Submit, start: Start, sweeper: None, slow_image: bytes
) -> None:
    worker = start(JOB_TIMEOUT_SECONDS="300")
    job = submit_image(slow_image)
    wait_for_status(service, job, JobStatus.PROCESSING)
    os.kill(worker.children()[0], signal.SIGKILL)
    assert wait_for_status(service, job, JobStatus.COMPLETED).attempts == 2
    assert "retrying" in list_event_types(service, job)


def test_hanging_child_is_killed_as_a_timeout(
    service: Service, submit_image: Submit, start: Start, slow_image: bytes
) -> None:
    worker = start()
    job = submit_image(slow_image)
    wait_for_status(service, job, JobStatus.PROCESSING)
    hanging = worker.children()[0]
    os.kill(hanging, signal.SIGSTOP)
    assert wait_for_status(service, job, JobStatus.RETRYING).error_code == "decode_timeout"
    assert not Path(f"/proc/{hanging}").exists()


def test_slow_image_is_interrupted(
    service: Service, submit_image: Submit, slow_image: bytes
) -> None:
    job = submit_image(slow_image)
    run_job(service, job.job_id, "worker", lambda: time_limit(0.05))
    assert find(service, job).error_code == "decode_timeout"


def test_time_limit_ends_with_its_body() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(DecodeTimeoutError), time_limit(0.05):
        time.sleep(10)


def test_stopped_worker_finishes_its_job(
    service: Service, submit_image: Submit, start: Start, slow_image: bytes
) -> None:
    worker = start(JOB_TIMEOUT_SECONDS="300")
    job = submit_image(slow_image)
    wait_for_status(service, job, JobStatus.PROCESSING)
    assert worker.stop() == 0
    assert find(service, job).status is JobStatus.COMPLETED


def test_upload_does_not_wait_for_a_hanging_broker(
    service: Service, submit_image: Submit, redis: Server
) -> None:
    submit_image()  # load what only the first upload loads
    redis.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        submit_image()
        assert time.monotonic() - started < 0.5
        with pytest.raises(BrokerUnavailableError):
            service.dispatcher.check()
        assert service.dispatcher.count_workers() == 0
    finally:
        redis.process.send_signal(signal.SIGCONT)


def test_other_sqlite_database_on_the_same_redis_is_refused(
    service: Service, start: Start, tmp_path: Path, settings: Settings
) -> None:
    elsewhere = start(waits=False, DATA_DIR=str(tmp_path / "elsewhere"))

    def claim_until_it_ends() -> bool:
        service.dispatcher.count_redispatchable()  # claims this Redis for 20 s, as the sweep does
        return elsewhere.process.poll() is not None

    wait_for(claim_until_it_ends)
    assert elsewhere.process.wait() != 0
    log = elsewhere.log.read_text()
    assert "error: REDIS_URL" in log
    assert "DATABASE_URL=postgresql+psycopg://" in log
    assert "Traceback" not in log


def test_worker_alone_claims_its_redis(start: Start, redis: Server) -> None:
    start()
    flush(redis)

    def find_holder() -> bytes:
        command = ["redis-cli", "-p", str(redis.port), "GET", DATABASE_KEY]
        return subprocess.run(command, check=True, capture_output=True).stdout.strip()

    wait_for(find_holder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"QUEUE_BACKEND": "embedded"}, "error: QUEUE_BACKEND=embedded"),
        ({"WEBP_QUALITY": "900"}, "WEBP_QUALITY='900'"),
    ],
)
def test_worker_reports_wrong_settings(start: Start, changes: dict[str, str], named: str) -> None:
    worker = start(waits=False, **changes)
    assert worker.process.wait(60) != 0
    assert named in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_import_creates_no_app() -> None:
    program = """
import imageprocessor.queue.celery_app as module
from celery import _state
assert "app" not in vars(module)
assert not list(_state._get_active_apps())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_flower_shows_the_worker_and_its_tasks(
    service: Service,
    submit_image: Submit,
    start: Start,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    start()
    port = find_free_port()
    command = [*COMMAND[:-1], "flower", "--address=127.0.0.1", f"--port={port}"]
    environ = {**os.environ, **environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    with run_server(command, port, tmp_path / "flower.log", env=environ, cwd=tmp_path):
        jobs: list[Job] = []

        def find_tasks() -> dict[str, dict[str, str]]:
            jobs.append(submit_image())  # Flower shows only what happens after it began to listen
            time.sleep(1.5)
            return dict(httpx.get(f"http://127.0.0.1:{port}/api/tasks").json())

        wait_for(find_tasks)
        task = next(iter(find_tasks().values()))
        assert task["name"] == RUN_JOB
        assert task["args"] in {f"['{job.job_id}']" for job in jobs}
        assert "0@" in httpx.get(f"http://127.0.0.1:{port}/workers").text
