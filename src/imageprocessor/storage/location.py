"""From a storage's location, as text, to the storage."""

from __future__ import annotations

from pathlib import Path

from imageprocessor.errors import SettingsError
from imageprocessor.storage.keys import S3_BUCKET_PATTERN, is_key
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import Storage
from imageprocessor.storage.s3 import S3Access, S3Storage


def open_storage(location: str) -> Storage:
    """Open the storage at *location*.

    - ``local:///absolute/path``: a directory, made if it is missing; not percent-decoded.
    - ``s3://bucket``, ``s3://bucket/prefix``: an S3 bucket that is there, or what begins with
    ``prefix/`` in it.
      Keys, region and endpoint are those that boto3 finds, such as in ``AWS_ACCESS_KEY_ID``,
      ``AWS_PROFILE``, ``AWS_DEFAULT_REGION`` and ``AWS_ENDPOINT_URL_S3``, in its files, or from the
      machine's role.
    - ``memory://``: a new, empty one that ends with the process.

    >>> store = open_storage("memory://")
    >>> store.exists("avatars/1.webp")
    False

    Raises:
        SettingsError: *location* has none of these forms, or nothing tells the region of AWS.
        StorageUnavailableError: The directory cannot be made or opened.
        MissingExtraError: The storage is in S3, and boto3 is not installed.
    """
    if location == "memory://":
        return MemoryStorage()
    scheme, _, path = location.partition("://")
    if scheme == "local" and path.startswith("/"):
        return LocalStorage(Path(path))
    bucket, _, prefix = path.rstrip("/").partition("/")
    if scheme == "s3" and S3_BUCKET_PATTERN.fullmatch(bucket) and (not prefix or is_key(prefix)):
        return S3Storage(S3Access(), bucket=bucket, prefix=f"{prefix}/" if prefix else "")
    raise SettingsError(
        f"{location!r} is not a storage this version can open:"
        " use 'local:///absolute/path', 's3://bucket', 's3://bucket/prefix' or 'memory://'."
    )
