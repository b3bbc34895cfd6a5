from __future__ import annotations

import pytest
from fastapi import Request

from imageprocessor.errors import InvalidWaitError
from imageprocessor.server.events.preferences import describe_preference, read_wait


def make_request(query: str = "", *preferences: str) -> Request:
    headers = [(b"prefer", value.encode()) for value in preferences]
    return Request({"type": "http", "query_string": query.encode(), "headers": headers})


@pytest.mark.parametrize(("query", "seconds"), [("", 0), ("wait=0", 0), ("a=b&wait=30", 30)])
def test_wait_is_read_from_the_query(query: str, seconds: int) -> None:
    request = make_request(query, "wait=7") if "wait" in query else make_request(query)
    assert read_wait(request) == seconds
    assert describe_preference(request) == {}


@pytest.mark.parametrize("sent", ["-1", "31", "x", "", "1.5", "+1", "1e1", "%D9%A1", "9" * 30])
def test_anything_else_in_the_query_is_refused(sent: str) -> None:
    with pytest.raises(InvalidWaitError, match="whole number of seconds from 0 to 30"):
        read_wait(make_request(f"wait={sent}"))


@pytest.mark.parametrize(
    ("preferences", "seconds"),
    [
        (["wait=5"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "WAIT = 5"], 5),
        (['wait="5"; why=not'], 5),
        (["wait=5, wait=6"], 5),
        (["wait=31"], 30),
        (["wait=0"], 0),
    ],
)
def test_preference_is_applied_and_clamped(preferences: list[str], seconds: int) -> None:
    request = make_request("", *preferences)
    assert read_wait(request) == seconds
    assert describe_preference(request) == {"Preference-Applied": f"wait={seconds}"}


@pytest.mark.parametrize("preference", ["wait", "wait=", "wait=x", "wait=-1", 'wait="5', "await=5"])
def test_malformed_preference_is_ignored(preference: str) -> None:
    request = make_request("", preference)
    assert read_wait(request) == 0
    assert describe_preference(request) == {}
