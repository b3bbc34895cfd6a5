"""The time, as the database keeps it: UTC text of fixed width, so that it sorts as it should."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Return *moment* as ``2024-11-08T14:00:00.000000Z``.

    >>> to_text(datetime(2024, 11, 8, 14, tzinfo=UTC))
    '2024-11-08T14:00:00.000000Z'
    """
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def from_text(text: str) -> datetime:
    """Return the aware moment that :func:`to_text` wrote."""
    return datetime.fromisoformat(text)
