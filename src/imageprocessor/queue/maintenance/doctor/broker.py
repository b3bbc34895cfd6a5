"""Checks of the queue: whether workers are running, and whether Redis keeps messages."""

from __future__ import annotations

from collections.abc import Iterator

from imageprocessor.errors import BrokerUnavailableError, MissingExtraError
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import Settings

START_WORKER = (
    "Start one: `imageprocessor worker`, or `imageprocessor serve` with WORKER_CONCURRENCY above 0."
)


def check_queue(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the broker, if there is one, and on the workers."""
    if settings.queue_backend == "embedded":
        supervisors = presence.list_live(workers_directory(settings))
        yield check_workers(sum(supervisors.values()))
        return
    try:
        from imageprocessor.queue.dispatch.broker import Broker  # noqa: PLC0415 - an extra

        broker = Broker(settings.redis_url.get_secret_value())
    except MissingExtraError as error:
        yield wrong("broker", str(error), error.command)
        return
    try:
        yield from check_redis(broker.describe())
        yield check_workers(broker.count_workers())
    except BrokerUnavailableError as error:
        fix = "Start Redis, or correct REDIS_URL. Uploads are accepted meanwhile."
        yield wrong("broker", str(error), fix)
    finally:
        broker.close()


def check_redis(described: dict[str, str]) -> Iterator[Finding]:
    """Yield findings on what Redis reports about itself.

    Warnings at most: a lost message loses no job, because the sweep sends it again.
    """
    yield ok("broker", f"Redis {described['redis_version']} answers")
    policy = described["maxmemory_policy"]
    if policy == "noeviction":
        yield ok("broker memory", "maxmemory-policy noeviction")
    else:
        found = (
            f"maxmemory-policy {policy}: "
            "Redis discards messages when it is full, so jobs start late."
        )
        yield warning("broker memory", found, "In redis.conf: maxmemory-policy noeviction")
    if described["aof_enabled"] == "1":
        yield ok("broker file", "appendonly yes")
    else:
        found = "appendonly no: Redis loses messages when it restarts, so jobs start late."
        yield warning("broker file", found, "In redis.conf: appendonly yes")


def check_workers(count: int) -> Finding:
    """Return the finding on *count* live worker processes."""
    if count:
        return ok("workers", f"{count} worker processes")
    return warning("workers", "No worker is running, so jobs wait.", START_WORKER)
