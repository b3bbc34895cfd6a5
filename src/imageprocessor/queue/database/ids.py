"""Ids of jobs, batches and events, which sort by the time when they were made."""

from __future__ import annotations

import os
import time
from datetime import datetime
from uuid import UUID

_VERSION, _VARIANT = 0x7, 0b10


def make_id() -> str:
    """Return a UUID of version 7: 48 bits of milliseconds since 1970, then 74 random bits.

    RFC 9562, 5.7. New rows then lie side by side at the end of an index. Random keys would touch
    another page of it for each row, and each page would be written to the log.

    >>> make_id()[14]
    '7'
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    high_random, low_random = random >> 68, random & (1 << 62) - 1
    number = milliseconds << 80 | _VERSION << 76 | high_random << 64 | _VARIANT << 62 | low_random
    return str(UUID(int=number))


def lowest_id(moment: datetime) -> str:
    """Return an id that sorts before all those made since *moment*.

    >>> from datetime import UTC
    >>> lowest_id(datetime(2024, 11, 8, 14, tzinfo=UTC))
    '01930c13-1f00-0000-0000-000000000000'
    """
    return str(UUID(int=int(moment.timestamp() * 1000) << 80))
