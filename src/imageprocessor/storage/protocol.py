"""The contract of every storage backend; ``tests/storage/contract.py`` tests it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

MARKER_NAME = ".imageprocessor"  #: not a valid name in a key


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A listed object; ``modified_at`` is in UTC."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Marker:
    """The mark that shows to which database a storage, or one of its S3 buckets, belongs."""

    prefix: str  #: of the keys that it stands for; empty: all
    path: str  #: of the file or object, for messages
    owner: str | None  #: the database's identity; None if the mark is missing


class Storage(Protocol):
    """A flat map from keys to bytes, safe for concurrent use by threads and processes.

    Writes are atomic: readers see a whole object or none. An object is durable when the call that
    stored it returns. Every method except ``list`` raises InvalidKeyError for a key that
    ``keys.check_key`` rejects, StorageFullError if no space is left, and StorageUnavailableError
    if the storage does not answer or refuses the operation.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store *data* under *key*, replacing any object there.

        An error leaves nothing new behind.
        """

    def adopt(self, key: str, path: Path) -> None:
        """Move the file at *path* into the storage, under *key*.

        On an error, the file stays at *path*.
        """

    def put_all(self, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
        """Store several objects, by key, in the threads of *pool*: see ``open_store_pool``.

        A path is moved into the storage, as by :meth:`adopt`. On an error, some of the objects may
        be stored.
        """

    def get(self, key: str) -> bytes:
        """Return the bytes under *key*.

        Raises:
            ObjectNotFoundError: Nothing is stored under *key*.
        """

    def delete(self, key: str, *, durable: bool = True) -> None:
        """Delete the object under *key*; do nothing if it does not exist.

        A power cut does not bring it back, unless *durable* is False.
        """

    def exists(self, key: str) -> bool:
        """Return whether something is stored under *key*."""

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key starts with *prefix*, sorted by key.

        With *start_after*, yield only those whose key comes after it: a listing can be resumed.
        """

    def url(self, key: str) -> str:
        """Return a URL that serves the object under *key*, if it exists, as of now."""

    def read_markers(self) -> Sequence[Marker]:
        """Return the marker, or one for each S3 bucket. A marker has no key and is not listed."""

    def write_marker(self, prefix: str, owner: str) -> None:
        """Write *owner* to the marker of *prefix*; the storage is created if missing."""
