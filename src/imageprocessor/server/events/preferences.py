"""How long a request may wait for its jobs: ``?wait=`` or the header ``Prefer`` (RFC 7240)."""

from __future__ import annotations

import re

from fastapi import Request

from imageprocessor.errors import InvalidWaitError

MAX_WAIT_SECONDS = 30
WAIT = re.compile(r"\d{1,9}", re.ASCII)
PREFERENCE = re.compile(r"wait\s*=\s*(\"?)(\d{1,9})\1\s*(;.*)?", re.ASCII | re.IGNORECASE)


def read_wait(request: Request) -> int:
    """Return for how many seconds *request* may wait; 0 if it does not say so.

    Raises:
        InvalidWaitError: ``wait`` in the query is not a whole number from 0 to MAX_WAIT_SECONDS.
            In a header, a greater number means MAX_WAIT_SECONDS, and anything else nothing.
    """
    # A status check has neither; parsing an empty query would cost it 1 % of its CPU time.
    sent = request.query_params.get("wait") if request.scope["query_string"] else None
    if sent is not None:
        if not WAIT.fullmatch(sent) or int(sent) > MAX_WAIT_SECONDS:
            raise InvalidWaitError(
                f"wait={sent[:20]!r} is not a whole number of seconds from 0 to {MAX_WAIT_SECONDS}."
            )
        return int(sent)
    if "prefer" not in request.headers:
        return 0
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        if match := PREFERENCE.fullmatch(preference.strip()):
            seconds = min(int(match[2]), MAX_WAIT_SECONDS)
            request.state.preference_applied = f"wait={seconds}"
            return seconds
    return 0


def describe_preference(request: Request) -> dict[str, str]:
    """Return the header ``Preference-Applied`` if :func:`read_wait` found a preference."""
    applied: str | None = getattr(request.state, "preference_applied", None)
    return {} if applied is None else {"Preference-Applied": applied}
