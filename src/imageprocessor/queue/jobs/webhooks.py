"""SQL on webhook endpoints and on the deliveries of events to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.database.tables import webhook_deliveries as deliveries
from imageprocessor.queue.database.tables import webhook_endpoints as endpoints
from imageprocessor.queue.jobs.description import PUBLIC_TYPES, Occurrence

ENDPOINT_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
ROTATION = timedelta(hours=24)  #: how long the secret before the current one signs, too

ALL_ENDPOINTS = select(endpoints)
INSERT_DELIVERY = insert(deliveries)


class DeliveryStatus(StrEnum):
    """The state of a delivery."""

    WAITING = "waiting"  #: for its first or next attempt
    DELIVERED = "delivered"
    FAILED = "failed"  #: after the last attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A receiver of events: one row of ``webhook_endpoints``."""

    name: str
    url: str
    secret: str
    created_at: datetime
    previous_secret: str | None = None  #: still used for signing, until it expires
    previous_secret_expires_at: datetime | None = None
    event_types: tuple[str, ...] | None = None  #: None: all
    buckets: tuple[str, ...] | None = None  #: None: all
    only_named: bool = False  #: receives only the events of uploads that name it
    allows_private: bool = False  #: may have a private address, or use HTTP
    from_settings: bool = False
    failing_since: datetime | None = None  #: the first failure since the last success
    next_probe_at: datetime | None = None  #: while it fails
    disabled_at: datetime | None = None
    disabled_reason: str | None = None

    @property
    def is_failing(self) -> bool:
        """Whether only one delivery at a time is tried: a single failure does not count."""
        return self.next_probe_at is not None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Endpoint:
        """Return the endpoint in *row*."""
        fields = dict(row)
        for name in TIMES:
            fields[name] = clock.from_text(row[name]) if row[name] else None
        for name in LISTS:
            fields[name] = tuple(json.loads(row[name])) if row[name] else None
        for name in FLAGS:
            fields[name] = bool(row[name])
        return cls(**fields)

    def to_row(self) -> dict[str, Any]:
        """Return the columns of this endpoint: the reverse of :meth:`from_row`."""
        row = {name: getattr(self, name) for name in self.__slots__}
        for name in TIMES:
            row[name] = clock.to_text(row[name]) if row[name] else None
        for name in LISTS:
            row[name] = json.dumps(row[name]) if row[name] else None
        return row

    def list_secrets(self, now: datetime) -> list[str]:
        """Return the secrets that sign at *now*: the current one first."""
        expires_at = self.previous_secret_expires_at
        if self.previous_secret and expires_at and now < expires_at:
            return [self.secret, self.previous_secret]
        return [self.secret]

    def receives(self, event_type: str, bucket: str, named: str | None) -> bool:
        """Return whether an event goes here, of an upload that named the endpoint *named*."""
        if self.name == named:
            is_addressed = True
        else:
            has_bucket = self.buckets is None or bucket in self.buckets
            is_addressed = has_bucket and not self.only_named
        return is_addressed and (self.event_types is None or event_type in self.event_types)


TIMES = (
    "created_at",
    "previous_secret_expires_at",
    "failing_since",
    "next_probe_at",
    "disabled_at",
)
LISTS = ("event_types", "buckets")
FAILURE_COLUMNS = ("failing_since", "next_probe_at")
FLAGS = ("only_named", "allows_private", "from_settings")


def list_endpoints(connection: Connection) -> list[Endpoint]:
    """Return all endpoints, by name."""
    rows = prepared.fetch_all(connection, ALL_ENDPOINTS, {})
    found = [Endpoint.from_row(row) for row in rows]
    return sorted(found, key=lambda endpoint: endpoint.name)


def find_endpoint(connection: Connection, name: str) -> Endpoint | None:
    """Return an endpoint, or None if there is none with this name."""
    row = connection.execute(select(endpoints).where(endpoints.c.name == name)).mappings().first()
    return Endpoint.from_row(dict(row)) if row else None


def insert_endpoint(connection: Connection, endpoint: Endpoint) -> None:
    """Store a new endpoint; raise IntegrityError if there is one with its name."""
    connection.execute(insert(endpoints), endpoint.to_row())


def lock_endpoint(connection: Connection, name: str) -> Endpoint | None:
    """Return an endpoint that no other transaction can change before this one ends, or None."""
    query = select(endpoints).where(endpoints.c.name == name).with_for_update()
    row = connection.execute(query).mappings().first()
    return Endpoint.from_row(dict(row)) if row else None


def change_secret(connection: Connection, endpoint: Endpoint, secret: str, now: datetime) -> None:
    """Give an endpoint a new secret; the one before signs, too, for 24 hours."""
    values = {
        "secret": secret,
        "previous_secret": endpoint.secret,
        "previous_secret_expires_at": clock.to_text(now + ROTATION),
    }
    connection.execute(update(endpoints).where(endpoints.c.name == endpoint.name).values(values))


def change_url(connection: Connection, name: str, url: str) -> None:
    """Send to another URL."""
    connection.execute(update(endpoints).where(endpoints.c.name == name).values(url=url))


def delete_endpoint(connection: Connection, name: str) -> None:
    """Delete an endpoint, but none of its deliveries."""
    connection.execute(delete(endpoints).where(endpoints.c.name == name))


def disable_endpoint(connection: Connection, name: str, reason: str, now: datetime) -> bool:
    """Stop sending to an endpoint: its deliveries wait. Return False if it is disabled already."""
    statement = update(endpoints).where(endpoints.c.name == name, endpoints.c.disabled_at.is_(None))
    values = {"disabled_at": clock.to_text(now), "disabled_reason": reason}
    return connection.execute(statement.values(values)).rowcount == 1


def enable_endpoint(connection: Connection, name: str) -> bool:
    """Send to an endpoint again, as if it had never failed. Return False if there is none."""
    values: dict[str, None] = dict.fromkeys((*FAILURE_COLUMNS, "disabled_at", "disabled_reason"))
    statement = update(endpoints).where(endpoints.c.name == name)
    return connection.execute(statement.values(values)).rowcount == 1


def insert_deliveries(
    connection: Connection,
    occurrence: Occurrence,
    receivers: Iterable[Endpoint],
    body: str,
    *,
    image_id: str,
    job_id: str,
) -> None:
    """Store a delivery of an event to each of *receivers*, due at once.

    One to a disabled endpoint waits until it is enabled.
    """
    now = clock.to_text(occurrence.created_at)
    for endpoint in receivers:
        row = {
            "delivery_id": make_id(),
            "endpoint": endpoint.name,
            "event_id": occurrence.event_id,
            "event_type": PUBLIC_TYPES[occurrence.event_type],
            "image_id": image_id,
            "job_id": job_id,
            "body": body,
            "status": DeliveryStatus.WAITING,
            "attempt_count": 0,
            "next_attempt_at": now,
            "created_at": now,
        }
        prepared.execute(connection, INSERT_DELIVERY, row)
