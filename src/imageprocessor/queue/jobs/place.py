"""The place of a row in a list that is read in pages; as text, a cursor."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self

from sqlalchemy import Column, ColumnElement, and_, or_

from imageprocessor.errors import InvalidCursorError

CURSOR = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)_([0-9a-f-]{36})"
)


class Place(NamedTuple):
    """The place of a row, by a time and its id."""

    moment: str
    row_id: str

    def __str__(self) -> str:
        return f"{self.moment}_{self.row_id}"

    @classmethod
    def parse(cls, cursor: str) -> Self:
        """Return the place that *cursor* names.

        Raises:
            InvalidCursorError: It is not a cursor.
        """
        match = CURSOR.fullmatch(cursor)
        if match is None:
            raise InvalidCursorError(
                f"{cursor[:40]!r} is not a cursor. Use that of the page before, unchanged, or "
                "none to begin with the first page."
            )
        return cls(match[1], match[2])

    def select_older(self, moment: Column[Any], row_id: Column[Any]) -> ColumnElement[bool]:
        """Return the condition for the rows that follow this one if the newest come first."""
        same_time = and_(moment == self.moment, row_id < self.row_id)
        return and_(moment <= self.moment, or_(moment < self.moment, same_time))

    def select_newer(self, moment: Column[Any], row_id: Column[Any]) -> ColumnElement[bool]:
        """Return the condition for the rows that follow this one if the oldest come first."""
        same_time = and_(moment == self.moment, row_id > self.row_id)
        return and_(moment >= self.moment, or_(moment > self.moment, same_time))
