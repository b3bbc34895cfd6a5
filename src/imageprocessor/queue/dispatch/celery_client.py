"""Celery's configuration, and how a wake-up is sent through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imageprocessor.errors import BrokerUnavailableError, MissingExtraError
from imageprocessor.queue.dispatch.broker import QUEUE
from imageprocessor.settings import Settings

try:
    from celery import Celery
    from celery.exceptions import OperationalError
except ModuleNotFoundError:
    raise MissingExtraError("QUEUE_BACKEND=celery", "celery") from None

RUN_JOB = "imageprocessor.run_job"
GIVE_BACK = "imageprocessor.give_back"
KILL_MARGIN_SECONDS = 10  #: from the time limit to SIGKILL; the lease lasts 5 s longer
SOFT_SHUTDOWN_SECONDS = 30
REDELIVERY_MARGIN_SECONDS = 230


def configure_celery(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration, each option with its reason."""
    longest_seconds = settings.job_timeout_seconds + KILL_MARGIN_SECONDS
    redis_options = {
        # Longer than any attempt; else a second worker gets the message meanwhile.
        "visibility_timeout": longest_seconds + REDELIVERY_MARGIN_SECONDS,
        # The default waits forever on a dead connection.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Look often for messages of dead workers; the default is every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
    messages = {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_transport_options": redis_options,
        # Wait for Redis however long it is away.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Other applications may use the same Redis.
        "task_default_queue": QUEUE,
        # JSON alone: reading a pickle runs code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # The outcome is in the database.
        "task_ignore_result": True,
        # The sweep sends a wake-up that was not sent again.
        "task_publish_retry": False,
        # When a worker's host dies, another worker gets its message.
        "task_acks_late": True,
        # An image that kills its worker must not be delivered again: the row counts the attempts.
        "task_reject_on_worker_lost": False,
    }
    workers = {
        # SIGKILL: C code does not react to anything else.
        "task_time_limit": longest_seconds,
        # A message that a busy worker holds would wait while other workers are idle.
        "worker_prefetch_multiplier": 1,
        # Whatever a decoder leaks is freed with its process.
        "worker_max_tasks_per_child": 200,
        # A child opens database and storage before it reports that it is up.
        "worker_proc_alive_timeout": 30,
        # Jobs that are running may end in a cold shutdown, too.
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
        # Messages that were just received go back to the queue.
        "worker_enable_soft_shutdown_on_idle": True,
        # A lost connection to Redis must not kill work.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Flower shows them.
        "worker_send_task_events": True,
        # Logs look as everywhere in the service.
        "worker_hijack_root_logger": False,
    }
    return messages | workers


def create_celery(settings: Settings) -> Celery:
    """Return a Celery application that can send messages; ``CeleryWorker`` adds tasks to one."""
    return Celery("imageprocessor", config_source=configure_celery(settings), set_as_current=False)


def make_publish(settings: Settings) -> Callable[[str], object]:
    """Return a function that sends the wake-up of a job.

    It raises BrokerUnavailableError, after some seconds, if Redis does not accept the message.
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
