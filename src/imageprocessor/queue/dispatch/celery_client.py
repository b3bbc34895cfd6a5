"""Celery's configuration, and sending wake-ups through Celery."""

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
END_ATTEMPTS = "imageprocessor.end_attempts"
KILL_MARGIN_SECONDS = 10  #: from the time limit to SIGKILL; the lease lasts 5 s longer
SOFT_SHUTDOWN_SECONDS = 30
REDELIVERY_MARGIN_SECONDS = 230


def configure_celery(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration, each option with its reason."""
    longest_seconds = settings.job_timeout_seconds + KILL_MARGIN_SECONDS
    redis_options = {
        # Longer than any attempt; otherwise a second worker gets the message during one.
        "visibility_timeout": longest_seconds + REDELIVERY_MARGIN_SECONDS,
        # The default waits forever on a dead connection.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Check often for messages of dead workers; the default is every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
    messages = {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_transport_options": redis_options,
        # Wait for Redis, however long it is down.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Other applications may use the same Redis.
        "task_default_queue": QUEUE,
        # Only JSON: loading a pickle can run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # The outcome is in the database.
        "task_ignore_result": True,
        # No retries: the sweep sends lost wake-ups again.
        "task_publish_retry": False,
        # When a worker's host dies, another worker gets its message.
        "task_acks_late": True,
        # An image that kills its worker must not be delivered again: its row counts the attempts.
        "task_reject_on_worker_lost": False,
    }
    workers = {
        # SIGKILL: C code does not react to anything else.
        "task_time_limit": longest_seconds,
        # A message prefetched by a busy worker would wait while other workers are idle.
        "worker_prefetch_multiplier": 1,
        # Whatever a decoder leaks is freed with its process.
        "worker_max_tasks_per_child": 200,
        # A child opens the database and the storage before it reports that it is up.
        "worker_proc_alive_timeout": 30,
        # Let running jobs finish in a cold shutdown, too.
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
        # Return messages that were just received to the queue.
        "worker_enable_soft_shutdown_on_idle": True,
        # A lost connection to Redis must not cancel running jobs.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Flower displays these events.
        "worker_send_task_events": True,
        # Keep the service's own log format.
        "worker_hijack_root_logger": False,
    }
    return messages | workers


def create_celery(settings: Settings) -> Celery:
    """Return a Celery application that can send messages; ``CeleryWorker`` adds tasks to one."""
    return Celery("imageprocessor", config_source=configure_celery(settings), set_as_current=False)


def make_publish(settings: Settings) -> Callable[[str], object]:
    """Return a function that sends the wake-up of a job.

    It raises BrokerUnavailableError, after a few seconds, if Redis does not accept the message.
    """
    app = create_celery(settings)
    connection = app.connection_for_write()
    faults = (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def publish(job_id: str) -> None:
        try:
            app.send_task(RUN_JOB, [job_id])
        except faults as error:
            raise BrokerUnavailableError(
                f"Redis did not accept the message ({error}). The sweep sends it again."
            ) from error

    return publish
