"""Reading the clocks of the servers that this installation uses."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from imageprocessor.errors import (
    BrokerUnavailableError,
    DatabaseUnavailableError,
    MissingExtraError,
)
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import open_database
from imageprocessor.settings import Settings

ASK_SECONDS = 5
AWS = "https://s3.amazonaws.com"


def read_clocks(settings: Settings) -> dict[str, timedelta]:
    """Return how far this machine's clock is ahead of that of each server that answers."""
    servers = {"PostgreSQL": _read_postgres, "Redis": _read_redis, "S3": _read_s3}
    ahead: dict[str, timedelta] = {}
    for name, read in servers.items():
        time = read(settings)
        if time:
            ahead[name] = clock.utc_now() - time
    return ahead


def _read_postgres(settings: Settings) -> datetime | None:
    if settings.sqlite_path:
        return None
    try:
        with closing(open_database(settings)) as database, database.read() as connection:
            time: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            return time.astimezone(UTC)
    except (DatabaseUnavailableError, MissingExtraError):
        return None


def _read_redis(settings: Settings) -> datetime | None:
    if settings.queue_backend != "celery":
        return None
    try:
        from imageprocessor.queue.dispatch.broker import Broker  # noqa: PLC0415 - an extra

        with closing(Broker(settings.redis_url.get_secret_value())) as broker:
            return broker.read_clock()
    except (BrokerUnavailableError, MissingExtraError):
        return None


def _read_s3(settings: Settings) -> datetime | None:
    if settings.storage_backend != "s3":
        return None
    try:
        with urlopen(settings.s3_endpoint_url or AWS, timeout=ASK_SECONDS) as answer:  # noqa: S310 - the settings permit http and https only
            return _parse_date(answer.headers["Date"])
    except HTTPError as error:  # an error response has a date, too
        return _parse_date(error.headers["Date"])
    except (URLError, OSError, HTTPException):
        return None


def _parse_date(text: str | None) -> datetime | None:
    return parsedate_to_datetime(text) if text else None
