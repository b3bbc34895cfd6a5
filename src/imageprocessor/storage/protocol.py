"""What every backend must do; ``tests/storage/contract.py`` checks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object in a listing; ``modified_at`` is in UTC."""

    key: str
    size_bytes: int
    modified_at: datetime


class Storage(Protocol):
    """A flat map from keys to bytes that many threads and processes may use at once.

    An object appears whole or not at all, and is durable when the call that stored it returns.
    Every method but ``list`` raises InvalidKeyError for what ``keys.check_key`` refuses,
    StorageFullError when there is no space left, and StorageUnavailableError when the storage does
    not answer or refuses.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store *data* under *key*, in place of what was there.

        On an error, nothing new is left behind.
        """

    def adopt(self, key: str, path: Path) -> None:
        """Move the file at *path* into the store, under *key*.

        It is gone from *path* afterwards; on an error, it is still there.
        """

    def get(self, key: str) -> bytes:
        """Return the bytes under *key*.

        Raises:
            ObjectNotFoundError: Nothing is stored under it.
        """

    def delete(self, key: str) -> None:
        """Remove the object under *key*, durably; do nothing if there is none."""

    def exists(self, key: str) -> bool:
        """Return whether something is stored under *key*."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield every object whose key begins with the text *prefix*, in no particular order."""

    def url(self, key: str) -> str:
        """Return a URL under which the bytes of *key* can be fetched now, if they are there."""
