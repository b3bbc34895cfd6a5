from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("structlog")

import structlog

from imageprocessor.logs import configure_logs


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Restore the logging configuration after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "values",
    [
        {"status": 200, "path": "/a%1B", "seconds": 0.5, "ids": ["a", 1], "none": None},
        {"cause": "two words", "quoted": 'a"b', "equals": "a=b", "line": "a\nb"},
        {"exception": "Traceback:\n  here"},
        {"stack": "Stack:\n  here"},
        {"event": "an event that is longer than the column is wide"},
    ],
)
def test_plain_line_equals_the_console_line_without_colours(
    values: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs("console", "INFO")
    values = {"event": "request", **values}
    structlog.get_logger("here").info(**values)
    timestamp, _, rest = capsys.readouterr().err.partition(" ")
    console = structlog.dev.ConsoleRenderer(colors=False)
    head = {"timestamp": timestamp, "level": "info", "logger": "here"}
    assert f"{timestamp} {rest}" == f"{console(None, 'info', head | values)}\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("cause", ["\x1b[31m", "in two words \x1b[31m", "\u202e"])
def test_control_characters_are_logged_as_escapes(
    cause: str,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logs("console", "INFO")
    structlog.get_logger("here").info("request", cause=cause)
    line = capsys.readouterr().err
    assert cause not in line
    assert "\\x1b[31m" in line or "\\u202e" in line


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_in_events_and_tracebacks_are_logged_as_escapes(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logs("console", "INFO")
    structlog.get_logger("here").info("event \x1b[31m", exception="Error: \u202e\n  line")
    line = capsys.readouterr().err
    assert "event \\x1b[31m" in line
    assert "Error: \\u202e\n  line" in line
