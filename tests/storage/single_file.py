"""A storage backend as CONTRIBUTING.md describes it: all objects in one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from imageprocessor.errors import ObjectNotFoundError, StorageFullError, StorageUnavailableError
from imageprocessor.storage.keys import check_key
from imageprocessor.storage.protocol import MARKER_NAME, Marker, Storage, StoredObject
from imageprocessor.storage.side_by_side import put_side_by_side

TABLE = "CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, data BLOB, modified_at REAL)"


class SingleFileStorage:
    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connect("open the storage") as connection:
            connection.execute(TABLE)

    def put(self, key: str, data: bytes) -> None:
        row = (check_key(key), data, datetime.now(UTC).timestamp())
        with self._connect(f"store {key!r}") as connection:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", row)

    def adopt(self, key: str, path: Path) -> None:
        check_key(key)
        try:
            self.put(key, path.read_bytes())
            path.unlink()
        except OSError as error:
            raise StorageUnavailableError(f"Cannot store a file as {key!r}: {error}.") from error

    def put_all(self, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
        put_side_by_side(self, objects, pool)

    def get(self, key: str) -> bytes:
        select = "SELECT data FROM objects WHERE key = ?"
        with self._connect(f"read {check_key(key)!r}") as connection:
            row = connection.execute(select, (key,)).fetchone()
        if row is None:
            raise ObjectNotFoundError(f"Nothing is stored under {key!r}.")
        return bytes(row[0])

    def delete(self, key: str, *, durable: bool = True) -> None:  # noqa: ARG002 - always is
        with self._connect(f"delete {check_key(key)!r}") as connection:
            connection.execute("DELETE FROM objects WHERE key = ?", (key,))

    def exists(self, key: str) -> bool:
        select = "SELECT 1 FROM objects WHERE key = ?"
        with self._connect(f"look up {check_key(key)!r}") as connection:
            return connection.execute(select, (key,)).fetchone() is not None

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        select = "SELECT key, length(data), modified_at FROM objects WHERE substr(key, 1, ?) = ?"
        select += f" AND key > ? AND key != '{MARKER_NAME}' ORDER BY key"
        with self._connect("list the stored objects") as connection:
            rows = connection.execute(select, (len(prefix), prefix, start_after)).fetchall()
        for key, size_bytes, modified_at in rows:
            yield StoredObject(key, size_bytes, datetime.fromtimestamp(modified_at, UTC))

    def url(self, key: str) -> str:
        return f"sqlite://{self.path}/{check_key(key)}"

    def read_markers(self) -> Sequence[Marker]:
        select = "SELECT data FROM objects WHERE key = ?"
        with self._connect("read the marker") as connection:
            row = connection.execute(select, (MARKER_NAME,)).fetchone()
        return [Marker("", f"sqlite://{self.path}/{MARKER_NAME}", row and row[0])]

    def write_marker(self, prefix: str, owner: str) -> None:  # noqa: ARG002 - there is only one
        row = (MARKER_NAME, owner, datetime.now(UTC).timestamp())
        with self._connect("write the marker") as connection:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", row)

    @contextmanager
    def _connect(self, action: str) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction; safe for concurrent threads and processes."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StorageFullError(f"No space is left to {action}. Make room.") from error
            raise StorageUnavailableError(f"Cannot {action}: {error}. Check the file.") from error


def open_single_file(place: str) -> Storage | None:
    """Open the storage at *place*, the ``/absolute/path`` after ``sqlite://`` in a location."""
    return SingleFileStorage(Path(place)) if place.startswith("/") else None
