"""Opening a storage by its location, such as ``s3://bucket``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imageprocessor.errors import SettingsError
from imageprocessor.storage.keys import S3_BUCKET_PATTERN, is_key
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import Storage
from imageprocessor.storage.s3 import S3Access, S3Storage


def open_storage(location: str) -> Storage:
    """Open the storage at *location*.

    - ``local:///absolute/path``: a directory, created if missing; the path is not
      percent-decoded.
    - ``s3://bucket``, ``s3://bucket/prefix``: an S3 bucket, which must exist, or the part of it
      below ``prefix/``. boto3 takes credentials, region and endpoint from ``AWS_ACCESS_KEY_ID``,
      ``AWS_PROFILE``, ``AWS_DEFAULT_REGION``, ``AWS_ENDPOINT_URL_S3`` and similar variables, its
      configuration files, or the machine's role.
    - ``memory://``: a new, empty storage that lasts as long as the process.

    >>> store = open_storage("memory://")
    >>> store.exists("avatars/1.webp")
    False

    Raises:
        SettingsError: *location* has none of these forms, or no AWS region is set.
        StorageUnavailableError: The directory cannot be created or opened.
        MissingExtraError: *location* is in S3 and boto3 is not installed.
    """
    scheme, separator, place = location.partition("://")
    opener = OPENERS.get(scheme) if separator else None
    storage = opener(place) if opener else None
    if storage is None:
        raise SettingsError(
            f"{location!r} is not a supported storage location. Use 'local:///absolute/path', "
            "'s3://bucket', 's3://bucket/prefix' or 'memory://'."
        )
    return storage


def _open_local(place: str) -> Storage | None:
    return LocalStorage(Path(place)) if place.startswith("/") else None


def _open_s3(place: str) -> Storage | None:
    bucket, _, prefix = place.rstrip("/").partition("/")
    if not S3_BUCKET_PATTERN.fullmatch(bucket):
        return None
    if prefix and not is_key(prefix):
        return None
    folder = f"{prefix}/" if prefix else ""
    return S3Storage(S3Access(), bucket=bucket, prefix=folder)


def _open_memory(place: str) -> Storage | None:
    return None if place else MemoryStorage()


#: from a location's scheme to the function that opens the rest of it, or returns None if malformed
OPENERS: dict[str, Callable[[str], Storage | None]] = {
    "local": _open_local,
    "s3": _open_s3,
    "memory": _open_memory,
}
