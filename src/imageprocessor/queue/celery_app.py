"""Celery: how a wake-up reaches a worker process on any host. ``celery -A imageprocessor.queue.celery_app worker``.

The row in the database is the job. A message carries its id and nothing else: if it is lost the sweep sends another, if
it comes twice the second claim finds nothing to do. Importing this module builds nothing; ``app`` is made when it is
asked for.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import FrameType
from typing import Any

import structlog

from imageprocessor.environment import load_settings
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
from imageprocessor.queue.broker import QUEUE, Broker
from imageprocessor.queue.child import limit_memory, run_patiently
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.task import give_back
from imageprocessor.settings import Settings

try:
    from celery import Celery, signals
    from celery.exceptions import OperationalError, TimeLimitExceeded
    from celery.exceptions import WorkerLostError as ProcessLostError
except ModuleNotFoundError:
    raise MissingExtraError("QUEUE_BACKEND=celery", "celery") from None

RUN_JOB = "imageprocessor.run_job"
GIVE_BACK = "imageprocessor.give_back"
KILL_MARGIN_SECONDS = 10  # a decode that hears no signal is killed so much later; the lease lasts 5 s longer
SOFT_SHUTDOWN_SECONDS = 30
STDERR = 2  # Celery puts a logger in the place of sys.stderr

log = structlog.get_logger(__name__)


def configure_celery(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration, each line with its reason."""
    longest_seconds = settings.job_timeout_seconds + KILL_MARGIN_SECONDS
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "task_default_queue": QUEUE,  # other applications may use the same Redis
        "task_ignore_result": True,  # the outcome is in the database
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,  # the message of a worker host that dies goes to another
        "task_reject_on_worker_lost": False,  # one whose picture kills it must not: the row counts the attempts
        "task_time_limit": longest_seconds,  # SIGKILL: C code hears nothing else
        "task_publish_retry": False,  # the sweep tries again
        "worker_prefetch_multiplier": 1,  # a job in hand of a busy worker would wait while others are idle
        "worker_max_tasks_per_child": 200,  # whatever a decoder leaks is given back
        "worker_proc_alive_timeout": 30,  # a child opens database and storage before it says it is up
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,  # a cold shutdown lets jobs in hand end, too
        "worker_enable_soft_shutdown_on_idle": True,  # what was just received is given back to the queue
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # Redis being away must not kill work
        "worker_send_task_events": True,  # for Flower
        "worker_hijack_root_logger": False,  # logs look as everywhere in the service
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # wait for Redis however long it is away
        "broker_transport_options": {
            "visibility_timeout": longest_seconds + 230,  # longer than any attempt, else a second worker gets it
            "socket_timeout": 5,  # the default waits for ever on a dead connection
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "unacked_restore_interval": 5,  # look often for messages of dead workers; the default is every 100 s
            "unacked_restore_throttle": 1,
        },
    }


def create_celery(settings: Settings) -> Celery:
    """Return a Celery application that can publish; :func:`create_worker` makes one that can work."""
    return Celery("imageprocessor", config_source=configure_celery(settings), set_as_current=False)


def make_publish(settings: Settings) -> Callable[[str], object]:
    """Return a function that sends the wake-up of a job. It raises BrokerUnavailableError, after some seconds."""
    app = create_celery(settings)
    connection = app.connection_for_write()
    faults = (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def publish(job_id: str) -> None:
        try:
            app.send_task(RUN_JOB, [job_id])
        except faults as error:
            raise BrokerUnavailableError(f"Redis took no message ({error}): the sweep sends it again.") from error

    return publish


def create_worker(settings: Settings) -> Celery:
    """Return the application of a worker: its two tasks, and what happens in its processes."""
    app = create_celery(settings)
    get_service = cache(lambda: _open_for_good(settings))  # first called in a child, after the fork

    def run_job(task: Any, job_id: str) -> None:
        worker_id = name_worker(task.request.id, task.request.hostname)
        run_patiently(get_service(), job_id, worker_id, lambda: time_limit(settings.job_timeout_seconds))

    def end_lost(worker_id: str, *, timed_out: bool) -> None:
        give_back(get_service(), worker_id, _explain_loss(settings, timed_out=timed_out))

    app.task(run_job, name=RUN_JOB, bind=True)
    app.task(end_lost, name=GIVE_BACK)
    _connect_signals(app, settings, get_service)
    return app


def name_worker(task_id: str, hostname: str) -> str:
    """Return what a job's row calls its worker: nobody but that process runs that message on that host."""
    return f"{task_id}:{hostname}"[:80]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise DecodeTimeoutError in the body after *seconds*. Only in the main thread of a process.

    Where C code lets no exception through, the process ends 10 s later. Celery would kill it, too, but not while its
    main process waits for Redis.
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


def _open_for_good(settings: Settings) -> Service:
    return ExitStack().enter_context(open_service(settings, migrates=False))


def _explain_loss(settings: Settings, *, timed_out: bool) -> JobError:
    if timed_out:
        return DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={settings.job_timeout_seconds}.")
    return WorkerLostError("The worker process ended during the job.")


def _connect_signals(app: Celery, settings: Settings, get_service: Callable[[], Service]) -> None:
    broker, process_counts = Broker(settings.redis_url.get_secret_value()), dict[str, int]()  # by the worker's name

    def set_up_logs(**_: Any) -> None:
        configure_logs(settings.log_format, settings.log_level)

    def prepare(sender: str, instance: Any, **_: Any) -> None:
        process_counts[sender] = instance.concurrency
        _check_service(settings)

    def open_child(**_: Any) -> None:
        limit_memory(settings.job_memory_limit_mb)
        get_service()

    def beat(sender: Any, **_: Any) -> None:
        name = sender.eventer.hostname
        try:
            broker.announce_worker(name, process_counts.get(name, 1))
        except BrokerUnavailableError as error:
            log.debug("worker_not_announced", cause=str(error))

    def report_loss(task_id: str, exception: BaseException, **_: Any) -> None:
        """In the parent of a child that was lost or killed: let another child end the attempt in the database."""
        if isinstance(exception, ProcessLostError | TimeLimitExceeded):
            (hostname,) = process_counts
            timed_out = isinstance(exception, TimeLimitExceeded)
            app.send_task(GIVE_BACK, [name_worker(task_id, hostname)], {"timed_out": timed_out})

    signals.setup_logging.connect(set_up_logs, weak=False)
    signals.celeryd_after_setup.connect(prepare, weak=False)
    signals.worker_process_init.connect(open_child, weak=False)
    signals.heartbeat_sent.connect(beat, weak=False)
    signals.task_failure.connect(report_loss, weak=False)


def _check_service(settings: Settings) -> None:
    """Before any child is forked: bring the database up to date, and end here if the service cannot be opened."""
    try:
        with open_service(settings):
            pass
    except ImageProcessorError as error:
        sys.exit(f"error: {error}")


def _load_worker() -> Celery:
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"error: {error}")
    if settings.queue_backend != "celery":
        sys.exit(
            f"error: QUEUE_BACKEND={settings.queue_backend}: these workers would never get a job. "
            "Set QUEUE_BACKEND=celery here and where the API runs."
        )
    return create_worker(settings)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = _load_worker()
    return app
