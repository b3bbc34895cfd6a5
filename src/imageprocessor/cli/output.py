"""Printing results on stdout and messages on stderr, with control characters escaped."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import TextIOWrapper
from itertools import islice
from textwrap import indent
from typing import Any, TypeVar

import typer
from rich import filesize
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

T = TypeVar("T")

PIPE_WIDTH = 1000
ROWS_PER_TABLE = 1000
EDGES, GAP = 2, 3  #: columns that a table needs beside its first and last cell, and between cells
LONG_WORD = 16  #: a longer one without an id, such as a path, may be broken
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
STATUS_STYLES = {
    "completed": "green",
    "delivered": "green",
    "failed": "red",
    "retrying": "yellow",
    "waiting": "yellow",
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


def print_json_items(items: Iterable[Any]) -> None:
    """Print *items* as a JSON array, each as soon as it is there: there may be millions."""
    start = "["
    for item in items:
        text = json.dumps(item, indent=2)
        typer.echo(f"{start}\n{indent(text, '  ')}", nl=False)
        start = ","
    typer.echo("[]" if start == "[" else "\n]")


def in_pages(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield *items* in lists that fit in a table, whose widths depend on all its rows."""
    rest = iter(items)
    while page := list(islice(rest, ROWS_PER_TABLE)):
        yield page


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    whole: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> None:
    """Print a table, or one record per row if the columns do not fit beside each other.

    The items of a list are lines of a cell, but in a pipe, each row has one line. Cells that are
    too wide wrap between words, except in the columns *whole*; ids are never broken. A narrow
    terminal gets fewer of the *optional* columns; the first ones go first.
    """
    console = _open_stdout()
    cells = [[_cell(value) for value in row] for row in rows]
    for count in range(len(optional) + 1):
        shown = [index for index, column in enumerate(columns) if column not in optional[:count]]
        table = _make_table(columns, cells, shown, whole, console.width)
        if table:
            table.title = title
            console.print(table)
            return
    _print_records(console, columns, cells, title)


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Print names and values below a title; values of None are left out."""
    shown = {name: _cell(value) for name, value in pairs.items() if value is not None}
    _print_pairs(_open_stdout(), Text(printable(title), "bold"), shown)


@contextmanager
def show_counts(*, silent: bool) -> Iterator[Callable[[str, int], None]]:
    """Yield a function that shows a count and what is counted, if stderr is a terminal."""
    from rich.progress import (  # noqa: PLC0415 - takes 20 ms
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )
    disable = silent or not console.is_terminal
    progress = Progress(*columns, console=console, transient=True, disable=disable)
    tasks = {}

    def show(what: str, count: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=None)
        progress.update(tasks[what], completed=count)

    with progress:
        yield show


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


def show_time(moment: datetime | None) -> str | None:
    """Return a time as it is in JSON, or None if there is none."""
    from imageprocessor.queue.database.clock import to_text  # noqa: PLC0415 - an extra

    return to_text(moment) if moment else None


def show_color(color: str) -> Text:
    """Return a swatch of the ``#RRGGBB`` *color*, followed by its code."""
    return Text.assemble(("██ ", color), color)


def show_status(status: str) -> Text:
    """Return a job's status or a check's verdict in its colour."""
    return Text(status, STATUS_STYLES.get(status, ""))


def show_failure(message: str) -> Text:
    """Return an error message as a table cell."""
    return Text(printable(message), "red")


def replace_unknown_letters() -> None:
    """Print ``?`` for each character that the encoding of stdout or stderr lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _open_stdout() -> Console:
    """Return a console for stdout: as wide as the terminal, or too wide to wrap if in a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, list):
        separator = "\n" if sys.stdout.isatty() else ", "
        return Text(separator.join(printable(str(item)) for item in value))
    return Text("" if value is None else printable(str(value)))


def _make_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    shown: Sequence[int],
    whole: tuple[str, ...],
    width: int,
) -> Table | None:
    """Return a table of the columns *shown*, or None if it would be wider than *width*."""
    least, most = [], []
    for index in shown:
        cells = [Text(columns[index]), *(row[index] for row in rows)]
        lines = [cell_len(line) for cell in cells for line in cell.plain.split("\n")]
        words = [_least_width(word) for cell in cells for word in cell.plain.split()]
        least.append(max(lines) if columns[index] in whole else max(words, default=0))
        most.append(max(lines))
    left = width - EDGES - GAP * (len(shown) - 1) - sum(least)
    if left < 0:
        return None
    # Each column gets what its words need, and a share of the rest by what its lines need.
    share = min(1.0, left / max(1, sum(most) - sum(least)))
    table = Table(title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, low, high in zip(shown, least, most, strict=True):
        table.add_column(columns[index], overflow="fold", width=low + int(share * (high - low)))
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _least_width(word: str) -> int:
    """Return the width that *word* needs: all of it, or of LONG_WORD if it may be broken."""
    return cell_len(word) if ID.search(word) else min(cell_len(word), LONG_WORD)


def _print_records(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Text]], title: str | None
) -> None:
    """Print each row as its first cell, with the others below it; empty cells are left out."""
    if title:
        console.print(Text(title, "bold"))
    for first, *others in rows:
        shown = {column: cell for column, cell in zip(columns[1:], others, strict=True) if cell}
        first.stylize_before("bold")
        _print_pairs(console, first, shown)


def _print_pairs(console: Console, title: Text, pairs: Mapping[str, Text]) -> None:
    """Print a title, then each name with its value beside it, or below it if a word is too long."""
    console.print(title)
    longest = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        label = Text(f"  {name:<{longest}}  ", "dim")
        room = console.width - len(label)
        if all(cell_len(word) <= room for word in value.plain.split()):
            grid = Table.grid(Column(width=len(label)), Column(overflow="fold"))
            grid.add_row(label, value)
            console.print(grid)
        else:
            console.print(label)
            console.print(value)
