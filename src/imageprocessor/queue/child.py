"""What runs inside a worker process: one job at a time, under a memory limit, for as long as its supervisor lives."""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
import threading
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection

import structlog

from imageprocessor.core.memory import give_back_memory, keep_memory
from imageprocessor.logs import configure_logs
from imageprocessor.queue.database import DATABASE_FAULTS
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.task import TimeLimit, run_job
from imageprocessor.settings import Settings

PAUSE_SECONDS = 1.0
IDLE_SECONDS = 60.0  #: without a job, before the memory that is kept for it is given back

Jobs = queue.SimpleQueue[tuple[str, int]]

log = structlog.get_logger(__name__)


def work(pipe: Connection, settings: Settings, supervisor_id: str) -> None:
    """Run the jobs that arrive on *pipe*, with the threads for each, and answer with its id once it is dealt with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the supervisor decides
    configure_logs(settings.log_format, settings.log_level)
    limit_memory(settings.job_memory_limit_mb)
    keep_memory(settings.job_memory_limit_mb)
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, jobs), name="receiver", daemon=True).start()
    worker_id = f"{supervisor_id}:{os.getpid()}"
    with open_service(settings, migrates=False) as service:
        while True:
            job_id, threads = wait_for_job(jobs)
            run_patiently(service, job_id, worker_id, threads=threads)
            pipe.send(job_id)


def wait_for_job(jobs: Jobs, idle_seconds: float = IDLE_SECONDS) -> tuple[str, int]:
    """Return the next job; if it takes long to come, give back the memory that is kept for it."""
    try:
        return jobs.get(timeout=idle_seconds)
    except queue.Empty:
        give_back_memory()
        return jobs.get()


def limit_memory(megabytes: int) -> None:
    """Bound this process's address space; what needs more gets a MemoryError. Linux only: macOS has no such bound."""
    if sys.platform == "linux":
        size = megabytes * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def run_patiently(
    service: Service, job_id: str, worker_id: str, time_limit: TimeLimit = nullcontext, threads: int = 1
) -> None:
    """Run the job; where the database cannot be used, pause for a second, so as not to run through all that wait."""
    try:
        run_job(service, job_id, worker_id, time_limit, threads)
    except DATABASE_FAULTS as error:
        log.warning("database_unavailable", job_id=job_id, cause=str(error))
        time.sleep(PAUSE_SECONDS)


def _receive(pipe: Connection, jobs: Jobs) -> None:
    """Pass on jobs; end the process at once when the supervisor is gone, even in the middle of a decode."""
    try:
        while True:
            jobs.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
