"""Celery's worker: how a wake-up becomes an attempt.

``celery -A imageprocessor.queue.celery_app worker`` runs it.

The row in the database is the job. A message carries its id and nothing else: if it is lost the
sweep sends another, if it comes twice the second claim finds nothing to do. Importing this module
builds nothing; ``app`` is made when it is asked for.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import structlog

from imageprocessor.environment import load_settings
from imageprocessor.errors import (
    BrokerUnavailableError,
    DecodeTimeoutError,
    ImageProcessorError,
    SettingsError,
    WorkerLostError,
)
from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import give_back
from imageprocessor.queue.dispatch.broker import Broker
from imageprocessor.queue.dispatch.celery_client import (
    GIVE_BACK,
    KILL_MARGIN_SECONDS,
    RUN_JOB,
    connect_signals,
    create_celery,
)
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.worker import Ends, bound_memory, run_patiently
from imageprocessor.settings import Settings

STDERR = 2  # Celery puts a logger in the place of sys.stderr

log = structlog.get_logger(__name__)


class Worker:
    """One Celery worker.

    A main process, which must not touch the database because it forks, and its children.
    """

    def __init__(self, settings: Settings) -> None:
        self.app = create_celery(settings)
        self.app.task(self._bind_run_job(), name=RUN_JOB, bind=True)
        self.app.task(self.give_back, name=GIVE_BACK)
        self._settings = settings
        self._name = ""
        self._process_count = 0
        self._broker: Broker | None = None
        self._service: Service | None = None  # a child's own, opened after the fork
        self._ends: Ends | None = None  # of jobs, a child's own, too

    def set_up_logs(self) -> None:
        configure_logs(self._settings.log_format, self._settings.log_level)

    def prepare(self, name: str, process_count: int) -> None:
        """Bring the database up to date, and end here if the service cannot be opened."""
        self._name, self._process_count = name, process_count
        try:
            with open_service(self._settings) as service:
                identity = service.database.identity()
        except ImageProcessorError as error:
            sys.exit(f"error: {error}")
        self._broker = Broker(self._settings.redis_url.get_secret_value(), identity)

    def open_child(self) -> None:
        self._ends = bound_memory(self._settings.job_memory_limit_mb)
        self._service = ExitStack().enter_context(open_service(self._settings, migrates=False))

    def beat(self) -> None:
        """Say that this worker lives, and which SQLite file it works on."""
        if self._broker is None:
            return
        try:
            self._broker.hold_database()
            self._broker.announce_worker(self._name, self._process_count)
        except BrokerUnavailableError as error:
            log.debug("worker_not_announced", cause=str(error))
        except SettingsError as error:
            log.error("wrong_database", cause=str(error))  # noqa: TRY400 - a traceback would tell nothing

    def _bind_run_job(self) -> Callable[[Any, str], None]:
        def run_job(task: Any, job_id: str) -> None:
            self.run_job(task.request.id, job_id)

        return run_job

    def run_job(self, task_id: str, job_id: str) -> None:
        """Run one attempt of a job, in a child."""
        assert self._service
        assert self._ends
        seconds = self._settings.job_timeout_seconds
        run_patiently(
            self._service, job_id, name_attempt(task_id, self._name), lambda: time_limit(seconds)
        )
        self._ends.put(None)

    def report_loss(self, task_id: str, *, timed_out: bool) -> None:
        """Let another child end the attempt of one that is gone."""
        self.app.send_task(GIVE_BACK, [name_attempt(task_id, self._name)], {"timed_out": timed_out})

    def give_back(self, worker_id: str, *, timed_out: bool) -> None:
        """End the attempt that a child left behind, in another child."""
        assert self._service
        seconds = self._settings.job_timeout_seconds
        late = DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds}.")
        give_back(
            self._service,
            worker_id,
            late if timed_out else WorkerLostError("The worker ended during the job."),
        )


def name_attempt(task_id: str, worker_name: str) -> str:
    """Return what a job's row calls its worker: nobody else runs that message on that host."""
    return f"{task_id}:{worker_name}"[:80]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise DecodeTimeoutError in the body after *seconds*. Only in the main thread of a process.

    Where C code lets no exception through, the process ends 10 s later. Celery would kill it, too,
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


def _load_worker() -> Any:
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"error: {error}")
    if settings.queue_backend != "celery":
        sys.exit(
            f"error: QUEUE_BACKEND={settings.queue_backend}: these workers would never get a job. "
            "Set QUEUE_BACKEND=celery here and where the API runs."
        )
    worker = Worker(settings)
    connect_signals(worker)
    return worker.app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = _load_worker()
    return app
