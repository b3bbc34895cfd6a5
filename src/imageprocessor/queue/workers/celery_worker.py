"""Celery's worker: for each message, runs one attempt of its job in a child process.

The database row is the job; a message carries only its id. If a message is lost, the sweep sends
another; if it arrives twice, the second claim finds nothing to do.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import structlog

from imageprocessor.errors import (
    BrokerUnavailableError,
    DecodeTimeoutError,
    ImageProcessorError,
    JobError,
    MissingExtraError,
    SettingsError,
    WorkerLostError,
)
from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import end_attempts
from imageprocessor.queue.dispatch.broker import Broker
from imageprocessor.queue.dispatch.celery_client import (
    END_ATTEMPTS,
    KILL_MARGIN_SECONDS,
    RUN_JOB,
    create_celery,
)
from imageprocessor.queue.metrics_port import serve_metrics
from imageprocessor.queue.process_memory import bound_memory
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.worker import run_job_or_wait
from imageprocessor.settings import Settings

try:
    from celery import signals
    from celery.exceptions import TimeLimitExceeded
    from celery.exceptions import WorkerLostError as ChildLostError
except ModuleNotFoundError:
    raise MissingExtraError("QUEUE_BACKEND=celery", "celery") from None

STDERR = 2  # Celery replaces sys.stderr by a logger

log = structlog.get_logger(__name__)


class CeleryWorker:
    """A Celery worker: a main process and the children that it forks.

    Because it forks, the main process must not keep a database connection open. ``app`` is the
    application that Celery's command line runs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # State of the main process; children inherit the name.
        self._name = ""
        self._process_count = 0
        self._broker: Broker | None = None
        # State of a child, opened after the fork until the process ends.
        self._opened = ExitStack()
        self._service: Service | None = None
        self._note_job_end: Callable[[], None] | None = None

        self.app = create_celery(settings)

        def run_job(task: Any, job_id: str) -> None:
            self._run_job(task.request.id, job_id)

        self.app.task(run_job, name=RUN_JOB, bind=True)
        self.app.task(self._end_attempts, name=END_ATTEMPTS)
        # In the main process: at start, before the fork, every two seconds, after a failed task.
        signals.setup_logging.connect(self._set_up_logs, weak=False)
        signals.celeryd_after_setup.connect(self._prepare, weak=False)
        signals.heartbeat_sent.connect(self._announce, weak=False)
        signals.task_failure.connect(self._report_loss, weak=False)
        # In each child, after the fork.
        signals.worker_process_init.connect(self._open_child, weak=False)

    def _set_up_logs(self, **_: Any) -> None:
        configure_logs(self._settings.log_format, self._settings.log_level)

    def _prepare(self, sender: str, instance: Any, **_: Any) -> None:
        """Migrate the database; exit if the service cannot be opened."""
        self._name = sender
        self._process_count = instance.concurrency
        try:
            with open_service(self._settings) as service:
                identity = service.database.file_identity()
        except ImageProcessorError as error:
            sys.exit(f"error: {error}")
        self._broker = Broker(self._settings.redis_url.get_secret_value(), identity)

    def _announce(self, **_: Any) -> None:
        """Report to Redis that this worker is alive, and which SQLite file it uses."""
        if self._broker is None:
            return
        try:
            self._broker.claim_broker()
            self._broker.announce_worker(self._name, self._process_count)
        except BrokerUnavailableError as error:
            log.debug("worker_not_announced", cause=str(error))
        except SettingsError as error:
            log.error("wrong_database", cause=str(error))  # noqa: TRY400 - a traceback adds nothing

    def _report_loss(self, task_id: str, exception: BaseException, **_: Any) -> None:
        """Ask a child, by a message, to end the attempt of another that died or was killed."""
        if isinstance(exception, ChildLostError | TimeLimitExceeded):
            timed_out = isinstance(exception, TimeLimitExceeded)
            worker_id = name_attempt(task_id, self._name)
            self.app.send_task(END_ATTEMPTS, [worker_id], {"timed_out": timed_out})

    def _open_child(self, **_: Any) -> None:
        self._note_job_end = bound_memory(self._settings.job_memory_limit_mb)
        self._service = self._opened.enter_context(open_service(self._settings, creates=False))
        self._opened.enter_context(serve_metrics(self._service))

    def _run_job(self, task_id: str, job_id: str) -> None:
        """Run one attempt of a job, in a child."""
        assert self._service
        assert self._note_job_end
        seconds = self._settings.job_timeout_seconds
        worker_id = name_attempt(task_id, self._name)
        run_job_or_wait(self._service, job_id, worker_id, lambda: time_limit(seconds))
        self._note_job_end()

    def _end_attempts(self, worker_id: str, *, timed_out: bool) -> None:
        """End, in this child, the attempt of another that died or was killed."""
        assert self._service
        seconds = self._settings.job_timeout_seconds
        error: JobError = WorkerLostError("The worker ended during the job.")
        if timed_out:
            error = DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds}.")
        end_attempts(self._service, worker_id, error)


def name_attempt(task_id: str, worker_name: str) -> str:
    """Return the worker id for a job's row: unique to one message on one host."""
    return f"{task_id}:{worker_name}"[:80]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise DecodeTimeoutError in the body after *seconds*. Works only in the main thread.

    If C code lets no exception through, the process exits 10 s later. Celery would kill it, too,
    but not while its main process waits for Redis.
    """

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds:g}.")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + KILL_MARGIN_SECONDS, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
