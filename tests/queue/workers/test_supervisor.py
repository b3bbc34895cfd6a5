from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imageprocessor.queue.attempts import claim_next
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.pause import pause, resume
from imageprocessor.queue.service import Service
from imageprocessor.queue.workers.supervisor import Slot, Supervisor
from imageprocessor.settings import Settings
from tests.images import encode
from tests.queue.conftest import Submit, with_settings

SUPERVISE = """
import json, sys
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
if __name__ == "__main__":
    values = {**json.loads(sys.argv[1]), "image_sizes": {"large": 1200}}
    with open_service(Settings.model_validate(values)) as service:
        Supervisor(service, 2).run()
"""

Supervise = Callable[..., Supervisor]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values = {"max_retries": 5, "job_timeout_seconds": 300, "image_sizes": {"large": 1200}}
    return Settings.model_validate({"data_dir": tmp_path / "data", **values})


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """Run a supervisor in a thread of this process until the test ends."""
    running: list[tuple[Supervisor, threading.Thread]] = []

    def start(service: Service, worker_count: int = 1) -> Supervisor:
        supervisor = Supervisor(service, worker_count)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        running.append((supervisor, thread))
        return supervisor

    yield start
    for supervisor, thread in running:
        supervisor.stop()
        thread.join(60)
        assert not thread.is_alive()


def find(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"still false after {seconds} s"
        time.sleep(0.01)


def wait_for_status(service: Service, job: Job, status: JobStatus, seconds: float = 60) -> Job:
    wait_for(lambda: find(service, job).status is status, seconds)
    return find(service, job)


def worker_pid(service: Service, job: Job) -> int:
    return int((find(service, job).worker_id or "").rpartition(":")[2])


def list_children(pid: int) -> list[int]:
    """Return the worker processes of *pid*, without multiprocessing's resource tracker."""
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in _read(task / "children").split()
    ]
    return [
        int(child) for child in children if "spawn_main" in _read(Path(f"/proc/{child}/cmdline"))
    ]


def _workers(service: Service, jobs: list[Job]) -> set[str]:
    """Return the process ids of the workers that run the jobs."""
    return {(find(service, job).worker_id or "").rpartition(":")[2] for job in jobs}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_jobs_run_and_workers_are_counted(
    service: Service, submit_image: Submit, supervise: Supervise
) -> None:
    supervise(service, 2)
    jobs = [submit_image() for _ in range(6)]
    for job in jobs:
        assert wait_for_status(service, job, JobStatus.COMPLETED).attempts == 1
    assert service.dispatcher.count_workers() == 2


@pytest.mark.parametrize("chosen", [None, "glibc.malloc.tcache_count=7"])
def test_workers_use_large_pages_unless_the_user_tunes_glibc(
    chosen: str | None,
    service: Service,
    submit_image: Submit,
    supervise: Supervise,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", chosen or "")
    if chosen is None:
        monkeypatch.delenv("GLIBC_TUNABLES")
    supervise(service)
    job = submit_image()
    wait_for_status(service, job, JobStatus.COMPLETED)
    (worker,) = list_children(os.getpid())
    assert f"GLIBC_TUNABLES={chosen or 'glibc.malloc.hugetlb=1'}" in _read(
        Path(f"/proc/{worker}/environ")
    ).split("\0")


def test_new_job_wakes_an_idle_worker_at_once(
    service: Service, submit_image: Submit, supervise: Supervise
) -> None:
    supervise(service)
    wait_for_status(service, submit_image(), JobStatus.COMPLETED)
    delays = []
    for _ in range(10):
        time.sleep(0.1)
        done = wait_for_status(service, submit_image(), JobStatus.COMPLETED)
        assert done.started_at
        delays.append((done.started_at - done.created_at).total_seconds())
    assert sorted(delays)[2] < 0.05, (
        "with one poll per second, three of ten would not start so soon"
    )


def test_busy_workers_share_the_threads_of_idle_ones(
    service: Service, submit_image: Submit
) -> None:
    pipes = [multiprocessing.Pipe() for _ in range(4)]
    supervisor = Supervisor(service, len(pipes))
    supervisor._slots = [
        Slot(multiprocessing.current_process(), ours, "a worker") for ours, _ in pipes
    ]

    def list_orders() -> list[int | None]:
        supervisor._wake_idle()
        return [theirs.recv() if theirs.poll() else None for _, theirs in pipes]

    assert list_orders() == [None, None, None, None]
    job = submit_image()
    assert list_orders() == [4, None, None, None]
    assert claim_next(service, "a worker")
    assert list_orders() == [None, None, None, None]
    submit_image()
    assert list_orders() == [2, 2, None, None], "the busy one uses fewer from its next job on"
    pipes[0][1].send((job.job_id, time.monotonic()))
    pipes[0][1].send((job.job_id, None))
    pipes[0][1].send(None)
    supervisor._slots[0].read_reports()
    assert list_orders() == [2, None, None, None], "its job is still due"


def test_killed_worker_costs_one_attempt_of_one_job(
    service: Service, submit_image: Submit, supervise: Supervise, slow_image: bytes
) -> None:
    supervise(service, 2)
    victim = submit_image(slow_image)
    wait_for_status(service, victim, JobStatus.PROCESSING)
    neighbours = [submit_image() for _ in range(3)]
    os.kill(worker_pid(service, victim), signal.SIGKILL)
    assert wait_for_status(service, victim, JobStatus.COMPLETED).attempts == 2
    assert [wait_for_status(service, job, JobStatus.COMPLETED).attempts for job in neighbours] == [
        1,
        1,
        1,
    ]


def test_pool_recovers_after_all_workers_are_killed(
    service: Service, submit_image: Submit, supervise: Supervise
) -> None:
    supervise(service, 2)
    wait_for_status(service, submit_image(), JobStatus.COMPLETED)
    for _ in range(3):
        children = list_children(os.getpid())
        assert len(children) == 2
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        jobs = [submit_image() for _ in range(3)]
        for job in jobs:
            wait_for_status(service, job, JobStatus.COMPLETED)


def test_image_that_kills_every_worker_fails_alone(
    service: Service, submit_image: Submit, supervise: Supervise, slow_image: bytes
) -> None:
    supervise(service, 1)
    poison = submit_image(slow_image)
    with service.database.write() as connection:
        connection.exec_driver_sql("UPDATE processing_jobs SET max_retries = 1")
    for _ in range(2):
        wait_for_status(service, poison, JobStatus.PROCESSING)
        os.kill(worker_pid(service, poison), signal.SIGKILL)
        wait_for(lambda: find(service, poison).status is not JobStatus.PROCESSING)
    failed = wait_for_status(service, poison, JobStatus.FAILED)
    assert (failed.error_code, failed.attempts) == ("worker_lost", 2)
    assert "signal 9" in (failed.error or "")
    wait_for_status(service, submit_image(), JobStatus.COMPLETED)


def test_hanging_worker_is_killed_at_its_time_limit(
    service: Service, submit_image: Submit, supervise: Supervise, slow_image: bytes
) -> None:
    service = with_settings(service, job_timeout_seconds=6)
    supervise(service, 1)
    job = submit_image(slow_image)
    wait_for_status(service, job, JobStatus.PROCESSING)
    os.kill(worker_pid(service, job), signal.SIGSTOP)
    retrying = wait_for_status(service, job, JobStatus.RETRYING, 20)
    assert retrying.error_code == "decode_timeout"
    assert wait_for_status(service, job, JobStatus.COMPLETED).attempts >= 2


def test_image_above_the_memory_limit_fails_alone(
    service: Service, submit_image: Submit, supervise: Supervise
) -> None:
    supervise(with_settings(service, job_memory_limit_mb=512), 1)
    hungry = submit_image(
        encode(Image.new("RGBA", (7000, 7000), (10, 200, 30, 128)), "PNG", compress_level=1)
    )
    small = submit_image()
    wait_for_status(service, small, JobStatus.COMPLETED)
    wait_for(lambda: find(service, hungry).error_code == "memory_exceeded")


def stop_during(service: Service, job: Job) -> Job:
    """Stop a supervisor while it runs the job; return the job afterwards."""
    supervisor = Supervisor(service, 1)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    wait_for_status(service, job, JobStatus.PROCESSING)
    supervisor.stop()
    thread.join(60)
    return find(service, job)


def test_stop_lets_a_running_job_finish(
    service: Service, submit_image: Submit, slow_image: bytes
) -> None:
    job = stop_during(service, submit_image(slow_image))
    assert job.status is JobStatus.COMPLETED
    assert list_children(os.getpid()) == []
    assert list(workers_directory(service.settings).iterdir()) == []


def test_stop_releases_an_unfinished_job_uncounted(
    service: Service, submit_image: Submit, slow_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.queue.workers.supervisor.STOP_WITHIN_SECONDS", 0.0)
    released = stop_during(service, submit_image(slow_image))
    assert (released.status, released.attempts, released.worker_id) == (JobStatus.PENDING, 0, None)


def test_paused_workers_are_not_woken(
    service: Service, submit_image: Submit, supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    list_due = job_store.list_due

    def count(*arguments: Any, **options: Any) -> list[str]:
        rounds.append(time.monotonic())
        return list_due(*arguments, **options)

    monkeypatch.setattr(job_store, "list_due", count)
    supervise(service)
    wait_for_status(service, submit_image(), JobStatus.COMPLETED)
    pause(service, None)
    job = submit_image()
    begun = len(rounds)
    time.sleep(1.5)
    assert len(rounds) - begun <= 4, "one for the upload, and one each second"
    assert find(service, job).status is JobStatus.PENDING
    resume(service, None)
    wait_for_status(service, job, JobStatus.COMPLETED)


def test_killed_service_loses_no_job_and_waits_for_no_lease(
    service: Service, submit_image: Submit, tmp_path: Path, slow_image: bytes
) -> None:
    jobs = [submit_image(slow_image) for _ in range(3)]
    for _ in range(2):
        with supervisor_process(service.settings, tmp_path) as pid:
            wait_for(
                lambda: any(str(child) in _workers(service, jobs) for child in list_children(pid))
            )
            children = list_children(pid)
        for child in children:
            wait_for_end(child)
    assert len(presence.list_dead(workers_directory(service.settings))) == 1, (
        "the second should have removed the first"
    )
    pause(service, None)
    with supervisor_process(service.settings, tmp_path) as pid:
        started = time.monotonic()
        wait_for(lambda: JobStatus.PROCESSING not in {find(service, job).status for job in jobs})
        wait_for(lambda: len(list_children(pid)) == 2)
        ended = [find(service, job) for job in jobs]
        time.sleep(1)
        assert [find(service, job) for job in jobs] == ended, "the workers are paused"
        resume(service, None)
        for job in jobs:
            wait_for_status(service, job, JobStatus.COMPLETED)
        assert time.monotonic() - started < service.settings.job_timeout_seconds / 2


@contextmanager
def supervisor_process(settings: Settings, tmp_path: Path) -> Iterator[int]:
    """Run a supervisor of two workers in its own process, and kill it at the end.

    Yield its process id.
    """
    script = tmp_path / "supervise.py"
    script.write_text(SUPERVISE)
    arguments = [
        sys.executable,
        str(script),
        settings.model_dump_json(exclude={"image_sizes", "redis_url"}),
    ]
    with subprocess.Popen(arguments) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def wait_for_end(pid: int) -> None:
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 20)
