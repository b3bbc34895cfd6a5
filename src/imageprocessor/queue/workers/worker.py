"""The body of a worker process: runs jobs while its supervisor lives.

While the disk flushes the variants of one job, in a thread, the process works on the next one.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import (
    Attempt,
    TimeLimit,
    claim_next,
    finish_attempt,
    process_job,
    run_job,
)
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.process_memory import bound_memory
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.side_by_side import open_store_pool

PAUSE_SECONDS = 1.0
STOP = 0  #: instead of a number of threads: take no more jobs

#: From the supervisor: look for jobs, and use that many threads for each.
Order = int
#: To the supervisor: a job's id, and until when on the monotonic clock it may take; None: it has
#: ended. Instead of both, None: this worker is idle.
Report = tuple[str, float | None] | None

log = structlog.get_logger(__name__)


def work(pipe: Connection, settings: Settings, supervisor_id: str) -> None:
    """Run the jobs that are due, when an order on *pipe* asks for it, until one says to stop."""
    # Ctrl-C reaches every process in the terminal; the supervisor decides when workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logs(settings.log_format, settings.log_level)
    note_job_end = bound_memory(settings.job_memory_limit_mb)

    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    receiver = threading.Thread(target=_receive, args=(pipe, orders), name="receiver", daemon=True)
    receiver.start()

    supervisor = SupervisorLink(pipe, workers_directory(settings), supervisor_id)
    with (
        open_service(settings, creates=False) as service,
        open_store_pool() as store_pool,
        ThreadPoolExecutor(1, "finisher") as finisher,
    ):
        worker = Worker(service, supervisor, note_job_end, finisher, store_pool)
        worker.run(orders)


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


class SupervisorLink:
    """Reports to the supervisor, from any thread."""

    def __init__(self, pipe: Connection, directory: Path, supervisor_id: str) -> None:
        self._pipe = pipe
        self._directory = directory
        self._supervisor_id = supervisor_id
        self._lock = threading.Lock()

    @property
    def worker_id(self) -> str:
        """The name of this process in the rows of its jobs."""
        return f"{self._supervisor_id}:{os.getpid()}"

    def report_begin(self, job: Job, seconds: float) -> None:
        """Report that *job* has begun and may take *seconds*."""
        self._send((job.job_id, time.monotonic() + seconds))

    def report_end(self, job: Job) -> None:
        """Report that the attempt of *job* has ended."""
        self._send((job.job_id, None))

    def report_idle(self) -> None:
        """Report that no job is due, and wake the supervisor, in case one has become so."""
        self._send(None)
        presence.wake(self._directory, self._supervisor_id)

    def _send(self, report: Report) -> None:
        with self._lock:
            self._pipe.send(report)


class Worker:
    """Runs jobs one after another; the last one's finish is left to a thread."""

    def __init__(
        self,
        service: Service,
        supervisor: SupervisorLink,
        note_job_end: Callable[[], None],
        finisher: Executor,
        store_pool: Executor,
    ) -> None:
        self._service = service
        self._supervisor = supervisor
        self._note_job_end = note_job_end
        self._finisher = finisher
        self._store_pool = store_pool
        self._pending: Future[None] | None = None  #: the finish of the last job

    def run(self, orders: queue.SimpleQueue[Order]) -> None:
        """Claim and run jobs until ordered to stop; wait for an order when none is due."""
        threads = orders.get()
        while threads != STOP:
            if not self._run_next(threads):
                self._supervisor.report_idle()
                threads = orders.get()
            while not orders.empty():
                threads = orders.get()
        self._wait_for_finish()

    def _run_next(self, threads: int) -> bool:
        """Run the job that is due first, except its finish; return False if none is due."""
        try:
            job = claim_next(self._service, self._supervisor.worker_id)
        except DATABASE_FAULTS as error:
            log.warning("database_unavailable", cause=str(error))
            time.sleep(PAUSE_SECONDS)
            return False  # the supervisor sends another order
        if job is None:
            return False
        self._supervisor.report_begin(job, self._service.settings.job_timeout_seconds)
        attempt = process_job(self._service, job, threads)
        self._wait_for_finish()
        self._pending = self._finisher.submit(self._finish, attempt)
        return True

    def _finish(self, attempt: Attempt) -> None:
        """Finish an attempt, in the finisher's thread."""
        try:
            finish_attempt(self._service, attempt, self._store_pool)
        except DATABASE_FAULTS as error:
            log.warning("database_unavailable", job_id=attempt.job.job_id, cause=str(error))
        self._note_job_end()
        self._supervisor.report_end(attempt.job)

    def _wait_for_finish(self) -> None:
        """Wait until no finish is pending: at most one image waits to be stored."""
        if self._pending:
            self._pending.result()
        self._pending = None


def _receive(pipe: Connection, orders: queue.SimpleQueue[Order]) -> None:
    """Put each order from *pipe* into *orders*; exit as soon as the supervisor is gone.

    Runs in a thread, so that even a running decode does not outlive the supervisor.
    """
    try:
        while True:
            orders.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
