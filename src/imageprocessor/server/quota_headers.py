"""What a user has left, as headers.

The older X-RateLimit names, and those of the IETF draft ``RateLimit``.
"""

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
    """Return the headers that describe *quota*.

    ``X-RateLimit-Reset`` is a time, ``t`` in ``RateLimit`` seconds.
    """
    window_seconds = int(quota.window.total_seconds())
    values = (
        str(quota.limit),
        str(quota.remaining),
        f"{quota.reset_at:%Y-%m-%dT%H:%M:%SZ}",
        f'"uploads";q={quota.limit};w={window_seconds}',
        f'"uploads";r={quota.remaining};t={seconds_to_reset(quota)}',
    )
    return dict(zip(NAMES, values, strict=True))


def seconds_to_reset(quota: Quota) -> int:
    """Return the whole seconds, at least one, until the window ends."""
    return max(1, ceil((quota.reset_at - clock.utc_now()).total_seconds()))
