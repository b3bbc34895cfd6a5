"""When a webhook is tried again, and when an endpoint that fails is probed.

Pure: no database access, no clock of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

JITTER = 0.2  #: each pause is up to so much shorter or longer, so that retries spread
LONGEST_WAIT = timedelta(days=1) * (1 + JITTER)  #: from one try to the next, with any Retry-After


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The times of a webhook's tries. Tests replace it by a faster one."""

    #: before the second try, the third, and so on
    pauses: tuple[timedelta, ...] = (
        timedelta(seconds=5),
        timedelta(minutes=5),
        timedelta(minutes=30),
        timedelta(hours=2),
        timedelta(hours=5),
        timedelta(hours=10),
        timedelta(hours=14),
        timedelta(hours=20),
        timedelta(hours=24),
    )
    shortest_probe_pause: timedelta = timedelta(seconds=5)
    longest_probe_pause: timedelta = timedelta(minutes=5)
    disables_after: timedelta = timedelta(days=5)  #: without any success
    timeout_seconds: float = 15.0  #: of one try
    #: A claimed delivery is due again after this time. A try may take longer than its timeout,
    #: because the system's name resolution has its own.
    claim: timedelta = timedelta(seconds=60)

    def next_try(
        self, attempts: int, now: datetime, retry_after_seconds: float | None = None
    ) -> datetime | None:
        """Return when to try again after *attempts* failed ones, or None if that was the last.

        Not before the time that the receiver asked for.
        """
        if attempts > len(self.pauses):
            return None
        return _later(now, self.pauses[attempts - 1], retry_after_seconds)

    def next_probe(
        self, failing_since: datetime, now: datetime, retry_after_seconds: float | None = None
    ) -> datetime:
        """Return when to probe an endpoint that has just failed again.

        The pause is as long as the endpoint has failed so far, within limits: so pauses double.
        """
        failed_for = now - failing_since
        pause = min(max(failed_for, self.shortest_probe_pause), self.longest_probe_pause)
        return _later(now, pause, retry_after_seconds)


def _later(now: datetime, pause: timedelta, retry_after_seconds: float | None) -> datetime:
    factor = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not a secret
    asked_for = timedelta(seconds=retry_after_seconds or 0)
    return now + max(pause * factor, asked_for)
