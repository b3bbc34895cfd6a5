"""Whether a storage is the one of this database, as the marker in it says.

If the disk of a storage is not mounted, its folder is there but empty, and its marker is missing.
"""

from __future__ import annotations

from imageprocessor.errors import StorageMismatchError
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.jobs import inventory
from imageprocessor.storage.protocol import Marker, Storage


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
        self._write(self.check())
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

    def take(self) -> None:
        """Write the markers that are missing: all images have been copied to this storage."""
        self._write(self.find_unmarked())

    def find_unmarked(self) -> list[Marker]:
        """Return the markers that are missing."""
        identity = self._database.identity()
        markers = self._storage.read_markers()
        for marker in markers:
            if marker.owner not in {None, identity}:
                raise StorageMismatchError(
                    f"According to {marker.path}, this storage belongs to the database "
                    f"{marker.owner}, but this one is {identity}. Correct DATABASE_PATH, "
                    "DATABASE_URL, STORAGE_PATH or S3_BUCKET. If the other database is gone for "
                    f"good, delete {marker.path}"
                )
        return [marker for marker in markers if marker.owner is None]

    def _write(self, markers: list[Marker]) -> None:
        for marker in markers:
            self._storage.write_marker(marker.prefix, self._database.identity())

    def _names_images(self, marker: Marker) -> bool:
        bucket = marker.prefix.removesuffix("/") or None
        with self._database.read() as connection:
            return inventory.has_images(connection, bucket)
