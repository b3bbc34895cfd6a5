"""The table `maintenance`: who runs the steps that concern all hosts, and how far listings are.

A lease only saves work. For a moment two processes may hold it, for example after a clock was set;
then both run the same steps. That does no harm, since each repair is one conditional change.
"""

from __future__ import annotations

import os
import secrets
import socket
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text, update

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import maintenance
from imageprocessor.queue.jobs.job_store import CLOCK_TOLERANCE

LEASE = timedelta(seconds=60)  #: renewed when half of it is used
ACQUIRE = text("""
    INSERT INTO maintenance (task, holder, lease_expires_at)
    VALUES (:task, :holder, :expires_at)
    ON CONFLICT (task) DO UPDATE
    SET holder = excluded.holder, lease_expires_at = excluded.lease_expires_at
    WHERE maintenance.holder IS NULL
        OR maintenance.holder = excluded.holder
        OR maintenance.lease_expires_at < :now
        OR maintenance.lease_expires_at > :latest
    RETURNING holder
""")
SET_PROGRESS = text("""
    INSERT INTO maintenance (task, due_at, position)
    VALUES (:task, :due_at, :position)
    ON CONFLICT (task) DO UPDATE SET due_at = excluded.due_at, position = excluded.position
""")


class Lease:
    """A lease on *task*, which one process at a time holds; see :meth:`hold`.

    If the holder dies, another process takes over after a minute; if their clocks differ, after
    two.
    """

    def __init__(self, database: Database, task: str) -> None:
        self._database = database
        self._task = task
        self._holder = f"{socket.gethostname()[:50]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._renewed_at: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process held the lease at the last call of :meth:`hold`."""
        return self._renewed_at is not None

    def hold(self) -> bool:
        """Acquire the lease, or renew it, if that is due; return whether this process holds it.

        The database is written to only then: twice a minute, by the holder.
        """
        now = clock.utc_now()
        if self._renewed_at and self._renewed_at <= now < self._renewed_at + LEASE / 2:
            return True
        self._renewed_at = None
        if self._is_held_elsewhere(now):
            return False
        values = {
            "task": self._task,
            "holder": self._holder,
            "expires_at": clock.to_text(now + LEASE),
            "now": clock.to_text(now),
            "latest": clock.to_text(_latest_end(now)),
        }
        with self._database.write() as connection:
            acquired = connection.scalar(ACQUIRE, values)
        if acquired is None:  # another process was faster
            return False
        self._renewed_at = now
        return True

    def release(self) -> None:
        """Give up the lease, if this process holds it: another one can take over at once."""
        if not self.is_held:
            return
        self._renewed_at = None
        statement = update(maintenance).where(
            maintenance.c.task == self._task, maintenance.c.holder == self._holder
        )
        with self._database.write() as connection:
            connection.execute(statement.values(holder=None, lease_expires_at=None))

    def _is_held_elsewhere(self, now: datetime) -> bool:
        columns = (maintenance.c.holder, maintenance.c.lease_expires_at)
        with self._database.read() as connection:
            query = select(*columns).where(maintenance.c.task == self._task)
            row = connection.execute(query).first()
        if row is None or row.holder in {None, self._holder}:
            return False
        expires_at = clock.from_text(row.lease_expires_at)
        return now <= expires_at <= _latest_end(now)


def read_progress(connection: Connection, task: str) -> tuple[datetime | None, str]:
    """Return when *task* is due, if that is known, and its position ("": at the start)."""
    columns = (maintenance.c.due_at, maintenance.c.position)
    row = connection.execute(select(*columns).where(maintenance.c.task == task)).first()
    if row is None or row.due_at is None:
        return None, ""
    return clock.from_text(row.due_at), row.position or ""


def set_progress(connection: Connection, task: str, due_at: datetime, position: str) -> None:
    """Store when *task* is due next, and its position then."""
    values = {"task": task, "due_at": clock.to_text(due_at), "position": position}
    connection.execute(SET_PROGRESS, values)


def _latest_end(now: datetime) -> datetime:
    """Return the latest end of a lease; one that ends later is from a clock since set back."""
    return now + LEASE + CLOCK_TOLERANCE
