"""A user's remaining quota as X-RateLimit headers and as those of the IETF draft."""

from __future__ import annotations

from math import ceil

from imageprocessor.queue.database import clock
from imageprocessor.queue.rate_limits import Quota

NAMES = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
)


def describe_quota(quota: Quota) -> dict[str, str]:
    """Return the headers in NAMES; X-RateLimit-Reset is a time, ``t`` in RateLimit a duration."""
    window_seconds = int(quota.window.total_seconds())
    seconds_left = seconds_to_reset(quota)
    return {
        "X-RateLimit-Limit": str(quota.limit),
        "X-RateLimit-Remaining": str(quota.remaining),
        "X-RateLimit-Reset": f"{quota.reset_at:%Y-%m-%dT%H:%M:%SZ}",
        "RateLimit-Policy": f'"uploads";q={quota.limit};w={window_seconds}',
        "RateLimit": f'"uploads";r={quota.remaining};t={seconds_left}',
    }


def seconds_to_reset(quota: Quota) -> int:
    """Return the seconds until the window ends, rounded up to at least one."""
    left = quota.reset_at - clock.utc_now()
    return max(1, ceil(left.total_seconds()))
