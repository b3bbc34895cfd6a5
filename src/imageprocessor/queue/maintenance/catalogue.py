"""A listing of a storage, in a temporary file because it may not fit in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from imageprocessor.storage.protocol import StoredObject

CACHE_KIB = 32 * 1024


class Catalogue:
    """The size of each listed object, by its key."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def record(self, listed: Iterable[StoredObject]) -> Iterator[StoredObject]:
        """Yield the *listed* objects, and add each to the catalogue."""
        insert = "INSERT OR REPLACE INTO stored VALUES (?, ?)"
        for stored in listed:
            self._connection.execute(insert, (stored.key, stored.size_bytes))
            yield stored

    def find_size(self, key: str) -> int | None:
        """Return the size of the object under *key*, or None if it was not listed."""
        select = "SELECT size_bytes FROM stored WHERE key = ?"
        row = self._connection.execute(select, (key,)).fetchone()
        return row[0] if row else None


@contextmanager
def open_catalogue() -> Iterator[Catalogue]:
    """Open an empty catalogue, which is deleted at the end of the context."""
    # SQLite deletes a database without a name when its connection closes.
    connection = sqlite3.connect("")
    try:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        connection.execute(
            "CREATE TABLE stored (key TEXT PRIMARY KEY, size_bytes INTEGER) WITHOUT ROWID"
        )
        yield Catalogue(connection)
    finally:
        connection.close()
