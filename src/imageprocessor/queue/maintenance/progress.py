"""How a long command reports what it has done so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Report = Callable[[str, int], None]  #: called with what is counted, and how many there are so far

T = TypeVar("T")

ITEMS_PER_REPORT = 100


def ignore(what: str, count: int) -> None:
    """Report nothing."""


def counted(items: Iterable[T], what: str, report: Report) -> Iterator[T]:
    """Yield *items*, and report how many there were so far as *what*."""
    count = 0
    for count, item in enumerate(items, 1):
        if count % ITEMS_PER_REPORT == 0:
            report(what, count)
        yield item
    report(what, count)
