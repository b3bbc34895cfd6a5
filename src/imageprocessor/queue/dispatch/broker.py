"""What the service itself asks of Redis beside Celery.

How many messages wait, which workers live, whose jobs they are.

All of it may be lost at any time (FLUSHALL): the next heartbeat and the next sweep write it again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from imageprocessor.errors import BrokerUnavailableError, MissingExtraError, SettingsError
from imageprocessor.settings import Settings

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError:
    raise MissingExtraError("QUEUE_BACKEND=celery", "celery") from None

QUEUE = "imageprocessor"  #: the Redis list that Celery keeps the waiting messages in
WORKERS_KEY = f"{QUEUE}:workers"
DATABASE_KEY = f"{QUEUE}:sqlite"
TIMEOUT_SECONDS = 2.0
WORKER_SECONDS = (
    10  #: a worker that says nothing for so long is gone; Celery's heart beats every 2 s
)
DATABASE_SECONDS = 20  #: the sweep says it again every 5 s, a worker every 2 s

log = structlog.get_logger(__name__)


class Broker:
    """A connection to Redis for one service.

    Every method but :meth:`close` raises BrokerUnavailableError.

    *database_identity* tells one SQLite file from another; it is empty for a database that hosts
    can share.
    """

    def __init__(self, url: str, database_identity: str = "") -> None:
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
        }
        self._client = redis.Redis.from_url(
            url, **options, retry=Retry(NoBackoff(), 0), decode_responses=True
        )
        self._database = database_identity

    def close(self) -> None:
        self._client.close()

    def ping(self) -> None:
        """Find out whether Redis answers."""
        with _told_apart():
            self._client.ping()

    def describe(self) -> dict[str, str]:
        """Return what Redis says of itself (INFO)."""
        with _told_apart():
            described: Any = self._client.info()
        return {name: str(value) for name, value in described.items()}

    def read_clock(self) -> datetime:
        """Return the time, as Redis has it."""
        with _told_apart():
            seconds, microseconds = self._client.time()
        return datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)

    def count_waiting(self) -> int:
        """Return how many messages no worker has taken yet."""
        with _told_apart():
            return int(self._client.llen(QUEUE))

    def announce_worker(self, name: str, process_count: int) -> None:
        """Say that the Celery worker *name* lives, for the next 10 s."""
        with _told_apart(), self._client.pipeline() as pipeline:
            pipeline.sadd(WORKERS_KEY, name)
            pipeline.set(f"{WORKERS_KEY}:{name}", process_count, ex=WORKER_SECONDS)
            pipeline.execute()

    def count_workers(self) -> int:
        """Return how many processes the workers that live have.

        It asks none of them, so it is quick.
        """
        with _told_apart():
            names = sorted(map(str, self._client.smembers(WORKERS_KEY)))
            counts = self._client.mget([f"{WORKERS_KEY}:{name}" for name in names]) if names else []
            if gone := [name for name, count in zip(names, counts, strict=True) if count is None]:
                self._client.srem(WORKERS_KEY, *gone)
        return sum(int(count) for count in counts if count)

    def hold_database(self) -> None:
        """Say for the next 20 s that this Redis serves our SQLite file.

        Which no other host can have.

        Raises:
            SettingsError: It serves another one.
        """
        if not self._database:
            return
        with _told_apart():
            mine = f"{self._database} on {socket.gethostname()}"
            self._client.set(DATABASE_KEY, mine, ex=DATABASE_SECONDS, nx=True)
            holder = str(self._client.get(DATABASE_KEY) or mine)
            if holder.split(" ", maxsplit=1)[0] == self._database:
                self._client.expire(DATABASE_KEY, DATABASE_SECONDS)
                return
        raise SettingsError(
            f"REDIS_URL serves another SQLite database already (the one {holder.partition(' ')[2]}): several hosts "
            "cannot share a SQLite file. Set DATABASE_URL=postgresql+psycopg://user:password@host/name on all of them; "
            "or, for another service, take another database of Redis, such as redis://host:6379/1. "
            f"If that service is gone, try again in {DATABASE_SECONDS} s."
        )


@contextmanager
def open_broker(settings: Settings, database_identity: str) -> Iterator[Broker]:
    """Open the broker of *settings*.

    It may be away: uploads are taken all the same, and their jobs wait.

    Raises:
        SettingsError: It serves another SQLite database.
    """
    broker = Broker(settings.redis_url.get_secret_value(), database_identity)
    try:
        try:
            broker.hold_database()
        except BrokerUnavailableError as error:
            log.warning("broker_unavailable", cause=str(error))
        yield broker
    finally:
        broker.close()


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise BrokerUnavailableError(
            f"Redis does not answer ({error}): check REDIS_URL and the server. Jobs wait meanwhile."
        ) from error
