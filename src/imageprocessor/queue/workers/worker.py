"""What runs inside a worker process.

One job at a time, under a memory limit, for as long as its supervisor lives.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
import threading
import time
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection

import structlog

from imageprocessor.core.memory import give_back_memory, keep_memory
from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import TimeLimit, run_job
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings

PAUSE_SECONDS = 1.0
IDLE_SECONDS = 60.0  #: without a job, before the memory that is kept for it is given back

Jobs = queue.SimpleQueue[tuple[str, int]]
Ends = queue.SimpleQueue[None]

log = structlog.get_logger(__name__)


def work(pipe: Connection, settings: Settings, supervisor_id: str) -> None:
    """Run the jobs that arrive on *pipe*, with the threads for each.

    And answer with its id once it is dealt with.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole terminal; the supervisor decides
    configure_logs(settings.log_format, settings.log_level)
    ends = bound_memory(settings.job_memory_limit_mb)
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, jobs), name="receiver", daemon=True).start()
    worker_id = f"{supervisor_id}:{os.getpid()}"
    with open_service(settings, migrates=False) as service:
        while True:
            job_id, threads = jobs.get()
            run_patiently(service, job_id, worker_id, threads=threads)
            ends.put(None)
            pipe.send(job_id)


def bound_memory(limit_mb: int, idle_seconds: float = IDLE_SECONDS) -> Ends:
    """Limit this process's memory.

    And keep what one job leaves for the next until none comes for *idle_seconds*.

    Whoever runs a job puts its end into the queue that this returns.
    """
    _limit_memory(limit_mb)
    keep_memory(limit_mb)
    ends: Ends = queue.SimpleQueue()
    threading.Thread(
        target=_give_back_when_idle, args=(ends, idle_seconds), name="idle", daemon=True
    ).start()
    return ends


def run_patiently(
    service: Service,
    job_id: str,
    worker_id: str,
    time_limit: TimeLimit = nullcontext,
    threads: int = 1,
) -> None:
    """Run the job.

    Where the database cannot be used, pause for a second, so as not to run through all that wait.
    """
    try:
        run_job(service, job_id, worker_id, time_limit, threads)
    except DATABASE_FAULTS as error:
        log.warning("database_unavailable", job_id=job_id, cause=str(error))
        time.sleep(PAUSE_SECONDS)


def _limit_memory(limit_mb: int) -> None:
    """Bound this process's address space; what needs more gets a MemoryError.

    Linux only: macOS has no such bound.
    """
    if sys.platform == "linux":
        size = limit_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _give_back_when_idle(ends: Ends, idle_seconds: float) -> None:
    while True:
        ends.get()
        with suppress(queue.Empty):
            while True:
                ends.get(timeout=idle_seconds)
        give_back_memory()


def _receive(pipe: Connection, jobs: Jobs) -> None:
    """Pass on jobs.

    End the process at once when the supervisor is gone, even in the middle of a decode.
    """
    try:
        while True:
            jobs.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
