"""The body of a worker process: runs one job at a time while its supervisor lives."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection

import structlog

from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import TimeLimit, run_job
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.process_memory import bound_memory
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings

PAUSE_SECONDS = 1.0

Jobs = queue.SimpleQueue[tuple[str, int]]  #: a job's id, and how many threads it may use

log = structlog.get_logger(__name__)


def work(pipe: Connection, settings: Settings, supervisor_id: str) -> None:
    """Run each job that arrives on *pipe*, and send its id back when its attempt has ended."""
    # Ctrl-C reaches every process in the terminal; the supervisor decides when workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logs(settings.log_format, settings.log_level)
    note_job_end = bound_memory(settings.job_memory_limit_mb)

    jobs: Jobs = queue.SimpleQueue()
    receiver = threading.Thread(target=_receive, args=(pipe, jobs), name="receiver", daemon=True)
    receiver.start()

    worker_id = f"{supervisor_id}:{os.getpid()}"
    with open_service(settings, creates=False) as service:
        while True:
            job_id, threads = jobs.get()
            run_job_or_wait(service, job_id, worker_id, threads=threads)
            note_job_end()
            pipe.send(job_id)


def run_job_or_wait(
    service: Service,
    job_id: str,
    worker_id: str,
    time_limit: TimeLimit = nullcontext,
    threads: int = 1,
) -> None:
    """Run one attempt of the job; if the database is unavailable, log that and pause for a second.

    Without the pause, a worker would race through all waiting jobs without running any.
    """
    try:
        run_job(service, job_id, worker_id, time_limit, threads)
    except DATABASE_FAULTS as error:
        log.warning("database_unavailable", job_id=job_id, cause=str(error))
        time.sleep(PAUSE_SECONDS)


def _receive(pipe: Connection, jobs: Jobs) -> None:
    """Put each job from *pipe* into *jobs*; exit as soon as the supervisor is gone.

    Runs in a thread, so that even a running decode does not outlive the supervisor.
    """
    try:
        while True:
            jobs.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
