"""What every backend does. ``tests/storage/contract.py`` is the same in executable form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One stored object, as a listing tells it. ``modified_at`` is in UTC."""

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
        """Store *data* under *key*, in the place of what was there.

        On an error, nothing new is left behind.
        """

    def adopt(self, key: str, path: Path) -> None:
        """Take the file at *path* into the store.

        It is gone from *path* afterwards; on an error, it is still there.
        """

    def get(self, key: str) -> bytes:
        """Return the bytes under *key*.

        Raises:
            ObjectNotFoundError: Nothing is stored under it.
        """

    def delete(self, key: str) -> None:
        """Remove the object under *key*, for good when this returns.

        None being there is no error.
        """

    def exists(self, key: str) -> bool:
        """Tell whether something is stored under *key*."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield every object whose key begins with the text *prefix*, in no particular order."""

    def url(self, key: str) -> str:
        """Return where the bytes under *key* can be fetched now.

        Whether they are there is not looked up.
        """
