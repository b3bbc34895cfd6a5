"""Printing results on stdout and messages on stderr, with control characters escaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich import filesize
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 250
STATUS_STYLES = {
    "completed": "green",
    "failed": "red",
    "retrying": "yellow",
    "processing": "cyan",
    "ok": "green",
    "wrong": "red",
    "warning": "yellow",
}


def print_error(message: str) -> None:
    """Print *message* on stderr, marked as the error that ends the command."""
    print_note(f"error: {message}")


def print_note(message: str) -> None:
    """Print *message* on stderr."""
    lines = [printable(line) for line in message.split("\n")]
    typer.echo("\n".join(lines), err=True)


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print *value* as JSON in ASCII: indented, or on one line for JSON *lines*."""
    typer.echo(json.dumps(value, indent=None if lines else 2))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    whole: str | None = None,
) -> None:
    """Print a table; cells that are too wide wrap, except in the column *whole*."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == whole)
    for row in rows:
        table.add_row(*map(_cell, row))
    _open_stdout().print(table)


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Print names and values below a title; values of None are left out."""
    grid = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value is not None:
            grid.add_row(Text(f"  {name}", "dim"), _cell(value))
    console = _open_stdout()
    console.print(Text(printable(title), "bold"))
    console.print(grid)


def printable(text: str) -> str:
    r"""Return *text* with every non-printable character, such as a control character, escaped.

    >>> printable("cat\x1b[2J.jpg")
    'cat\\x1b[2J.jpg'
    """
    escaped = [char if char.isprintable() else ascii(char)[1:-1] for char in text]
    return "".join(escaped)


def show_bytes(count: int) -> str:
    """Return a number of bytes in readable form.

    >>> show_bytes(2_345_678)
    '2.3 MB'
    """
    return filesize.decimal(count)


def show_color(color: str) -> Text:
    """Return a swatch of the ``#RRGGBB`` *color*, followed by its code."""
    return Text.assemble(("██ ", color), color)


def show_status(status: str) -> Text:
    """Return a job's status or a check's verdict in its colour."""
    return Text(status, STATUS_STYLES.get(status, ""))


def show_failure(message: str) -> Text:
    """Return an error message as a table cell."""
    return Text(printable(message), "red")


def _open_stdout() -> Console:
    """Return a console for stdout: as wide as the terminal, or too wide to wrap if in a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _cell(value: object) -> RenderableType:
    if isinstance(value, Text):
        return value
    return Text("" if value is None else printable(str(value)))
