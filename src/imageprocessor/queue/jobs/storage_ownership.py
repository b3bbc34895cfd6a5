"""Whether a storage, and an object in it, is this database's, as the marker in the storage says.

If the disk of a storage is not mounted, its folder is there but empty, and its marker is missing.

A marker consists of the database's identity and, if the service wrote it when it started, the time.
What is older than that was there before, and may belong to another database.
"""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.errors import StorageMismatchError
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.jobs import inventory
from imageprocessor.storage.protocol import Marker, Storage, StoredObject
from imageprocessor.storage.s3 import S3Storage


@dataclass(frozen=True, slots=True)
class Claim:
    """The objects of a storage that are this database's: below *prefix*, not older than *since*."""

    prefix: str
    since: str  #: as text, see `clock`; empty: however old they are

    def covers(self, stored: StoredObject) -> bool:
        """Return whether an object is this database's, so that it may be deleted."""
        is_newer = clock.to_text(stored.modified_at) >= self.since
        return is_newer and stored.key.startswith(self.prefix)


class StorageOwnership:
    """The tie between a database and its storage: the database's identity in a marker.

    Every method raises StorageMismatchError if the storage belongs to another database,
    StorageUnavailableError if it does not answer, and DatabaseUnavailableError.
    """

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._is_verified = False

    def verify(self) -> None:
        """Require the marker, as :meth:`check` does; write it if the storage is new."""
        self._write(self.check(), _now())
        self._is_verified = True

    def ensure_verified(self) -> None:
        """Verify the storage, unless this was done already: call it before an image is stored."""
        if not self._is_verified:
            self.verify()

    def check(self) -> list[Marker]:
        """Return the markers that are missing because the storage is new.

        Raises:
            StorageMismatchError: A marker is missing, although the database names images in this
                storage or the marker was there before.
        """
        unmarked = self.find_unmarked()
        for marker in unmarked:
            if self._is_verified or self._names_images(marker):
                raise StorageMismatchError(
                    f"{marker.path} is missing, which marks the storage of this database. Check "
                    "that its disk is mounted, and STORAGE_PATH or S3_BUCKET. If this is the right "
                    f"storage, write {self._database.identity()} to {marker.path}"
                )
        return unmarked

    def claim_new(self) -> None:
        """Write the markers that are missing: whatever is stored from now on is this database's."""
        self._write(self.find_unmarked(), _now())

    def claim_all(self) -> None:
        """Write the markers that are missing: whatever is in this storage is this database's."""
        self._write(self.find_unmarked())

    def list_claims(self) -> list[Claim]:
        """Return what of the storage is this database's; what no claim covers may be another's."""
        identity = self._database.identity()
        claims = []
        for marker in self._storage.read_markers():
            owner, _, since = (marker.owner or "").partition(" ")
            if owner == identity:
                claims.append(Claim(marker.prefix, since))
        return claims

    def find_unmarked(self) -> list[Marker]:
        """Return the markers that are missing."""
        identity = self._database.identity()
        markers = self._storage.read_markers()
        for marker in markers:
            if marker.owner is None:
                continue
            owner = marker.owner.partition(" ")[0]
            if owner != identity:
                raise StorageMismatchError(
                    f"According to {marker.path}, this storage belongs to the database "
                    f"{owner}, but this one is {identity}. Correct DATABASE_PATH, "
                    "DATABASE_URL, STORAGE_PATH or S3_BUCKET. If the other database is gone for "
                    f"good, delete {marker.path}"
                )
        return [marker for marker in markers if marker.owner is None]

    def _write(self, markers: list[Marker], since: str = "") -> None:
        for marker in markers:
            owner = f"{self._database.identity()} {since}".strip()
            self._storage.write_marker(marker.prefix, owner)

    def _names_images(self, marker: Marker) -> bool:
        bucket = marker.prefix.removesuffix("/") or None
        with self._database.read() as connection:
            return inventory.has_images(connection, bucket)


def _now() -> str:
    """Return the current time as S3 would list it for an object stored now: in whole seconds."""
    return clock.to_text(clock.utc_now().replace(microsecond=0))


def find_ownerships(
    database: Database, images: Storage, staging: Storage
) -> tuple[StorageOwnership, StorageOwnership]:
    """Return the ties of a database to its two storages: on S3, the same one.

    There both are in the same buckets, and one marker stands for both.
    """
    ownership = StorageOwnership(database, images)
    if isinstance(staging, S3Storage):
        return ownership, ownership
    return ownership, StorageOwnership(database, staging)
