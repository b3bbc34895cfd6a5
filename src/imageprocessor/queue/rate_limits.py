"""Rate limit: how many uploads a user has left in the current window.

Uploads are counted in the transaction that inserts the job, so the count is exact under any load.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, func, select, text

from imageprocessor.errors import RateLimitedError
from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.tables import upload_rate_limits as limits

#: how long an old window is kept, so that a clock set forward and back does not reset its count
STEP_GRACE = timedelta(hours=1)
COUNTS_PER_DELETE = 10_000  #: some 0.1 s

COUNT_USED = select(limits.c.upload_count).where(
    limits.c.user_id == bindparam("user_id"), limits.c.window_start == bindparam("window_start")
)
TAKE_ONE = text("""
    INSERT INTO upload_rate_limits (user_id, window_start, upload_count)
    VALUES (:user_id, :window_start, 1)
    ON CONFLICT (user_id, window_start) DO UPDATE
    SET upload_count = upload_rate_limits.upload_count + 1
    WHERE upload_rate_limits.upload_count < :max_uploads
    RETURNING upload_count
""")


@dataclass(frozen=True, slots=True)
class Quota:
    """A user's uploads in the current window."""

    limit: int
    remaining: int
    reset_at: datetime  #: when the window ends, UTC
    window: timedelta


def read_quota(
    connection: Connection, user_id: str, now: datetime, max_uploads: int, window: timedelta
) -> Quota:
    """Return the quota of *user_id* without counting an upload."""
    start = window_start(now, window)
    key = {"user_id": user_id, "window_start": clock.to_text(start)}
    row = prepared.fetch_first(connection, COUNT_USED, key)
    used = row["upload_count"] if row else 0
    return Quota(max_uploads, max(0, max_uploads - used), start + window, window)


def count_upload(
    connection: Connection, user_id: str, now: datetime, max_uploads: int, window: timedelta
) -> Quota:
    """Count one upload of *user_id*.

    Raises:
        RateLimitedError: The window is full; nothing is counted.
    """
    start = window_start(now, window)
    values = {"user_id": user_id, "window_start": clock.to_text(start), "max_uploads": max_uploads}
    row = prepared.fetch_first(connection, TAKE_ONE, values)
    used = row["upload_count"] if row else max_uploads
    quota = Quota(max_uploads, max_uploads - used, start + window, window)
    if row is None:
        require_remaining(quota)
    return quota


def require_remaining(quota: Quota) -> None:
    """Raise RateLimitedError if nothing of *quota* remains."""
    if quota.remaining > 0:
        return
    minutes = int(quota.window.total_seconds() // 60)
    raise RateLimitedError(
        f"All {quota.limit} uploads of this {minutes}-minute window are used. Try again after "
        f"{quota.reset_at:%Y-%m-%dT%H:%M:%SZ}.",
        reset_at=quota.reset_at,
    )


def forget_user(connection: Connection, user_id: str) -> None:
    """Delete all counts of *user_id*."""
    connection.execute(delete(limits).where(limits.c.user_id == user_id))


def find_old_window(connection: Connection, now: datetime, window: timedelta) -> str | None:
    """Return the start of the oldest window if it ended at least an hour ago, else None."""
    oldest_kept = window_start(now - STEP_GRACE, window)
    is_over = limits.c.window_start < clock.to_text(oldest_kept)
    start: str | None = connection.scalar(select(func.min(limits.c.window_start)).where(is_over))
    return start


def delete_counts(connection: Connection, start: str) -> None:
    """Delete COUNTS_PER_DELETE counts of the window that started at *start*."""
    is_of_window = limits.c.window_start == start
    some = select(limits.c.user_id).where(is_of_window).limit(COUNTS_PER_DELETE)
    connection.execute(delete(limits).where(is_of_window, limits.c.user_id.in_(some)))


def window_start(now: datetime, window: timedelta) -> datetime:
    """Return the start of the window that contains *now*; windows are aligned to the epoch.

    >>> window_start(datetime(2024, 11, 8, 14, 42, tzinfo=UTC), timedelta(hours=1)).isoformat()
    '2024-11-08T14:00:00+00:00'
    """
    seconds = int(window.total_seconds())
    return datetime.fromtimestamp(int(now.timestamp()) // seconds * seconds, UTC)
