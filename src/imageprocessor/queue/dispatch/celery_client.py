"""Celery as this service uses it.

Its configuration, how a wake-up is sent, and what a worker is told of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from imageprocessor.errors import BrokerUnavailableError, MissingExtraError
from imageprocessor.queue.dispatch.broker import QUEUE
from imageprocessor.settings import Settings

try:
    from celery import Celery, signals
    from celery.exceptions import OperationalError, TimeLimitExceeded, WorkerLostError
except ModuleNotFoundError:
    raise MissingExtraError("QUEUE_BACKEND=celery", "celery") from None

RUN_JOB = "imageprocessor.run_job"
GIVE_BACK = "imageprocessor.give_back"
KILL_MARGIN_SECONDS = (
    10  # a decode that hears no signal is killed so much later; the lease lasts 5 s longer
)
SOFT_SHUTDOWN_SECONDS = 30


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
        # one whose picture kills it must not: the row counts the attempts
        "task_reject_on_worker_lost": False,
        "task_time_limit": longest_seconds,  # SIGKILL: C code hears nothing else
        "task_publish_retry": False,  # the sweep tries again
        # a job in hand of a busy worker would wait while others are idle
        "worker_prefetch_multiplier": 1,
        "worker_max_tasks_per_child": 200,  # whatever a decoder leaks is given back
        # a child opens database and storage before it says it is up
        "worker_proc_alive_timeout": 30,
        # a cold shutdown lets jobs in hand end, too
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
        # what was just received is given back to the queue
        "worker_enable_soft_shutdown_on_idle": True,
        # Redis being away must not kill work
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,  # for Flower
        "worker_hijack_root_logger": False,  # logs look as everywhere in the service
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # wait for Redis however long it is away
        "broker_transport_options": {
            "visibility_timeout": longest_seconds
            + 230,  # longer than any attempt, else a second worker gets it
            "socket_timeout": 5,  # the default waits for ever on a dead connection
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # look often for messages of dead workers; the default is every 100 s
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
        },
    }


def create_celery(settings: Settings) -> Celery:
    """Return a Celery application that can publish; ``celery_app.Worker`` has one that can work."""
    return Celery("imageprocessor", config_source=configure_celery(settings), set_as_current=False)


def make_publish(settings: Settings) -> Callable[[str], object]:
    """Return a function that sends the wake-up of a job.

    It raises BrokerUnavailableError, after some seconds.
    """
    app = create_celery(settings)
    connection = app.connection_for_write()
    faults = (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def publish(job_id: str) -> None:
        try:
            app.send_task(RUN_JOB, [job_id])
        except faults as error:
            raise BrokerUnavailableError(
                f"Redis took no message ({error}): the sweep sends it again."
            ) from error

    return publish


class WorkerEvents(Protocol):
    """What happens to a worker, in its main process and in the children that it forks."""

    def set_up_logs(self) -> None:
        """The main process begins."""

    def prepare(self, name: str, process_count: int) -> None:
        """The main process is about to fork."""

    def open_child(self) -> None:
        """A child begins."""

    def beat(self) -> None:
        """Two seconds have passed in the main process."""

    def report_loss(self, task_id: str, *, timed_out: bool) -> None:
        """A child is gone in the middle of a task: the main process notices at once."""


def connect_signals(worker: WorkerEvents) -> None:
    """Let Celery tell *worker* what happens."""

    def tell_loss(task_id: str, exception: BaseException, **_: Any) -> None:
        if isinstance(exception, WorkerLostError | TimeLimitExceeded):
            worker.report_loss(task_id, timed_out=isinstance(exception, TimeLimitExceeded))

    def tell_setup(sender: str, instance: Any, **_: Any) -> None:
        worker.prepare(sender, instance.concurrency)

    signals.setup_logging.connect(lambda **_: worker.set_up_logs(), weak=False)
    signals.celeryd_after_setup.connect(tell_setup, weak=False)
    signals.worker_process_init.connect(lambda **_: worker.open_child(), weak=False)
    signals.heartbeat_sent.connect(lambda **_: worker.beat(), weak=False)
    signals.task_failure.connect(tell_loss, weak=False)
