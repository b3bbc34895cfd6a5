"""The result of a benchmark: a ratio to a reference, or why it was skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: *ours* and *theirs* are medians in *unit*.

    *ratio* is the median of ours / theirs in each round.
    """

    work: str
    reference: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    rounds: int
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within its budget; None if it has no budget."""
        if self.at_most is not None:
            return self.ratio <= self.at_most
        return None if self.at_least is None else self.ratio >= self.at_least

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be measured here."""

    work: str
    reference: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def interleave(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return every contender's results, round by round, after a warm-up round.

    The contenders take turns, because a shared machine changes its speed within seconds: put those
    that are compared next to each other in *contenders*. Every second round runs backwards, because
    each contender leaves warm caches and hot processors to the next.
    """
    values: dict[str, list[T]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            values[name].append(contenders[name]())
    return values


def compare(  # noqa: PLR0913 - a row has that many columns
    work: str,
    unit: str,
    ours: Sequence[float],
    reference: str,
    theirs: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Return the row that compares two contenders' results from :func:`interleave`.

    >>> compare("nap", "s", [1.0, 3.0, 2.0], "sleep", [4.0, 4.0, 4.0], at_most=0.6).ratio
    0.5
    """
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    values = median(ours), median(theirs), median(ratios), min(ratios), max(ratios)
    return Figure(work, reference, unit, *values, len(ratios), at_most, at_least)
