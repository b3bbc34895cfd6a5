"""Times as stored in the database: UTC text of fixed width, which sorts chronologically."""

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
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def from_text(text: str) -> datetime:
    """Return the aware datetime that :func:`to_text` formatted."""
    return datetime.fromisoformat(text)
