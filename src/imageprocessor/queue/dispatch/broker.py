"""What the service itself stores in Redis, next to Celery: live workers, and their database.

All of it may be lost at any time (FLUSHALL): the next heartbeat and the next sweep restore it.
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

QUEUE = "imageprocessor"  #: the Redis list in which Celery stores waiting messages
WORKERS_KEY = f"{QUEUE}:workers"
DATABASE_KEY = f"{QUEUE}:sqlite"
TIMEOUT_SECONDS = 2.0
WORKER_SECONDS = 10  #: how long a worker counts as alive; it announces itself every 2 s
DATABASE_SECONDS = 20  #: how long a claim lasts; the sweep renews it every 5 s, a worker every 2 s

log = structlog.get_logger(__name__)


class Broker:
    """A connection to Redis for one service.

    Every method but :meth:`close` raises BrokerUnavailableError if Redis does not answer.

    *database_identity* identifies a SQLite file; it is empty for a database that hosts can share.
    """

    def __init__(self, url: str, database_identity: str = "") -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._database_identity = database_identity

    def close(self) -> None:
        self._client.close()

    def ping(self) -> None:
        """Raise BrokerUnavailableError if Redis does not answer."""
        with _translate_errors():
            self._client.ping()

    def describe(self) -> dict[str, str]:
        """Return what Redis reports about itself (INFO)."""
        with _translate_errors():
            described: Any = self._client.info()
        return {name: str(value) for name, value in described.items()}

    def read_clock(self) -> datetime:
        """Return the Redis server's time."""
        with _translate_errors():
            seconds, microseconds = self._client.time()
        return datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)

    def count_waiting(self) -> int:
        """Return how many messages no worker has received yet."""
        with _translate_errors():
            return int(self._client.llen(QUEUE))

    def announce_worker(self, name: str, process_count: int) -> None:
        """Record that the Celery worker *name* is alive, for the next 10 s."""
        with _translate_errors(), self._client.pipeline() as pipeline:
            pipeline.sadd(WORKERS_KEY, name)
            pipeline.set(f"{WORKERS_KEY}:{name}", process_count, ex=WORKER_SECONDS)
            pipeline.execute()

    def count_workers(self) -> int:
        """Return the number of processes of all live workers, without contacting them."""
        with _translate_errors():
            names = sorted(str(name) for name in self._client.smembers(WORKERS_KEY))
            if not names:
                return 0
            keys = [f"{WORKERS_KEY}:{name}" for name in names]
            counts = self._client.mget(keys)
            expired = [name for name, count in zip(names, counts, strict=True) if count is None]
            if expired:
                self._client.srem(WORKERS_KEY, *expired)
        return sum(int(count) for count in counts if count)

    def claim_broker(self) -> None:
        """Claim this Redis for our SQLite file, which hosts cannot share, for the next 20 s.

        Raises:
            SettingsError: Redis already serves another SQLite file.
        """
        if not self._database_identity:
            return
        claim = f"{self._database_identity} on {socket.gethostname()}"
        with _translate_errors():
            self._client.set(DATABASE_KEY, claim, ex=DATABASE_SECONDS, nx=True)
            holder = str(self._client.get(DATABASE_KEY) or claim)
            holder_identity, _, holder_place = holder.partition(" ")
            if holder_identity == self._database_identity:
                self._client.expire(DATABASE_KEY, DATABASE_SECONDS)
                return
        raise SettingsError(
            f"REDIS_URL already serves another SQLite database (the one {holder_place}), and "
            "several hosts cannot share a SQLite file. Set "
            "DATABASE_URL=postgresql+psycopg://user:password@host/name on all hosts; or, for a "
            "separate service, use another Redis database, such as redis://host:6379/1. "
            f"If the other service is gone, try again in {DATABASE_SECONDS} s."
        )


@contextmanager
def open_broker(settings: Settings, database_identity: str) -> Iterator[Broker]:
    """Open the broker in *settings*. If Redis does not answer, log a warning; jobs wait meanwhile.

    Raises:
        SettingsError: Redis already serves another SQLite file.
    """
    broker = Broker(settings.redis_url.get_secret_value(), database_identity)
    try:
        try:
            broker.claim_broker()
        except BrokerUnavailableError as error:
            log.warning("broker_unavailable", cause=str(error))
        yield broker
    finally:
        broker.close()


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise BrokerUnavailableError(
            f"Redis does not answer ({error}). Check REDIS_URL and the server. Jobs wait meanwhile."
        ) from error
