from __future__ import annotations

import pytest

pytest.importorskip("structlog")

import structlog

from imageprocessor.logs import render_plain

HEAD = {"timestamp": "2024-11-08T14:00:00Z", "level": "info", "event": "request", "logger": "here"}


@pytest.mark.parametrize(
    "told",
    [
        {"status": 200, "path": "/a%1B", "seconds": 0.5, "ids": ["a", 1], "none": None},
        {"cause": "two words", "quoted": 'a"b', "equals": "a=b", "line": "a\nb"},
        {"exception": "Traceback:\n  here"},
        {"stack": "Stack:\n  here"},
        {"event": "an event that is longer than the column is wide"},
    ],
)
def test_plain_line_is_what_the_console_shows_without_colours(told: dict[str, object]) -> None:
    console = structlog.dev.ConsoleRenderer(colors=False)
    assert (
        render_plain(None, "", HEAD | told).rstrip() == str(console(None, "", HEAD | told)).rstrip()
    )


def test_plain_line_shows_what_a_terminal_would_obey_as_an_escape() -> None:
    assert "\x1b" not in render_plain(None, "", HEAD | {"cause": "\x1b[31m"})
