from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imageprocessor.queue.database import clock
from imageprocessor.queue.rate_limits import Quota
from imageprocessor.server.quota_headers import describe_quota, seconds_to_reset

RESET = datetime(2024, 11, 8, 15, tzinfo=UTC)
QUOTA = Quota(limit=50, remaining=49, reset_at=RESET, window=timedelta(hours=1))


def test_quota_has_both_header_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "utc_now", lambda: RESET - timedelta(minutes=30))
    assert describe_quota(QUOTA) == {
        "X-RateLimit-Limit": "50",
        "X-RateLimit-Remaining": "49",
        "X-RateLimit-Reset": "2024-11-08T15:00:00Z",
        "RateLimit-Policy": '"uploads";q=50;w=3600',
        "RateLimit": '"uploads";r=49;t=1800',
    }


@pytest.mark.parametrize(("left", "seconds"), [(0.2, 1), (1.5, 2), (0, 1), (-3, 1)])
def test_seconds_to_reset_are_rounded_up_to_at_least_one(
    left: float, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "utc_now", lambda: RESET - timedelta(seconds=left))
    assert seconds_to_reset(QUOTA) == seconds
