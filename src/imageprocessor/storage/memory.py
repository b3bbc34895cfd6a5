"""Storage in this process's memory, for tests and for programs that keep nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path

from imageprocessor.errors import ObjectNotFoundError, StorageUnavailableError
from imageprocessor.storage.keys import check_key
from imageprocessor.storage.protocol import MARKER_NAME, Marker, StoredObject
from imageprocessor.storage.side_by_side import put_side_by_side


class MemoryStorage:
    """A Storage that lasts as long as the process.

    >>> store = MemoryStorage()
    >>> store.put("avatars/1.webp", b"bytes")
    >>> store.get("avatars/1.webp")
    b'bytes'
    """

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._owner: str | None = None

    def put(self, key: str, data: bytes) -> None:
        self._objects[check_key(key)] = (data, datetime.now(UTC))

    def adopt(self, key: str, path: Path) -> None:
        check_key(key)
        try:
            self.put(key, path.read_bytes())
            path.unlink()
        except OSError as error:
            raise StorageUnavailableError(
                f"Cannot store a file as {key!r}: {error.strerror}."
            ) from error

    def put_all(self, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
        put_side_by_side(self, objects, pool)

    def get(self, key: str) -> bytes:
        try:
            data, _ = self._objects[check_key(key)]
        except KeyError:
            raise ObjectNotFoundError(f"Nothing is stored under {key!r}.") from None
        return data

    def delete(self, key: str, *, durable: bool = True) -> None:  # noqa: ARG002 - nothing is
        self._objects.pop(check_key(key), None)

    def exists(self, key: str) -> bool:
        return check_key(key) in self._objects

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        for key, (data, modified_at) in sorted(self._objects.copy().items()):
            if key.startswith(prefix) and key > start_after:
                yield StoredObject(key, len(data), modified_at)

    def url(self, key: str) -> str:
        return f"memory:///{check_key(key)}"

    def read_markers(self) -> Sequence[Marker]:
        return [Marker("", f"memory:///{MARKER_NAME}", self._owner)]

    def write_marker(self, prefix: str, owner: str) -> None:  # noqa: ARG002 - there is only one
        self._owner = owner
