"""Checks of both storages, images and uploads: store, read, list and delete a probe."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from imageprocessor.errors import (
    ImageProcessorError,
    StorageError,
    StorageMismatchError,
    StorageUnavailableError,
)
from imageprocessor.queue.database.connections import FIND_SERVICE, open_database
from imageprocessor.queue.jobs.storage_ownership import StorageOwnership
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.queue.service import open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.protocol import Storage
from imageprocessor.storage.s3 import S3Storage

PROBE = b"imageprocessor doctor"
FETCH_SECONDS = 10
NAMES = ("image storage", "upload storage")
MATCH = "Mount the disk, or correct the setting that names the wrong storage or database."
SAME_DISK = (
    "Put DATA_DIR/incoming and DATA_DIR/staging on the same file system; "
    "otherwise each upload is copied."
)
MAKE_PRIVATE = (
    "Block public access to the bucket: "
    "anybody who guesses a key can read an upload with its metadata."
)
PUBLIC_URL = (
    "Set S3_PUBLIC_ENDPOINT_URL to the address at which clients reach S3, "
    "with its real host and scheme."
)
PERMIT = (
    "The message says what was refused. "
    "The service must be allowed to put, get, list and delete objects there."
)


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Yield findings on both storages, and on how an upload gets into staging."""
    folders = list_folders(settings)
    missing = [str(folder.resolve()) for folder in folders if not folder.is_dir()]
    if missing:
        found = f"There is no {' and no '.join(missing)} yet."
        yield warning("storage", found, f"Check that its disk is mounted. {FIND_SERVICE}")
        return
    try:
        storages = open_storages(settings, creates=False)
    except ImageProcessorError as error:
        yield wrong("storage", str(error), PERMIT)
        return
    for name, storage in zip(NAMES, storages, strict=True):
        for prefix in list_prefixes(settings):
            yield from check_objects(name, storage, f"{prefix}doctor-{secrets.token_hex(16)}")
    images, staging = storages
    yield from check_marker(settings, images)
    if isinstance(staging, LocalStorage):
        yield check_rename(staging, settings.data_dir / "incoming")


def list_folders(settings: Settings) -> list[Path]:
    """Return the folders that the service creates when it starts."""
    if settings.storage_backend != "local":
        return []
    return [settings.storage_path, settings.data_dir / "staging", settings.data_dir / "incoming"]


def list_prefixes(settings: Settings) -> list[str]:
    """Return the key prefixes of the probes: one for each S3 bucket to try."""
    if settings.storage_backend == "local":
        return [""]  # a prefix would leave a folder behind
    buckets = settings.allowed_buckets
    if settings.s3_bucket:
        buckets = buckets[:1] or ("doctor",)
    return [f"{bucket}/" for bucket in buckets]


def check_objects(name: str, storage: Storage, key: str) -> Iterator[Finding]:
    """Store an object under *key*, yield findings on it, and delete it."""
    where = name
    if isinstance(storage, S3Storage):
        bucket = storage.bucket or key.partition("/")[0]
        where = f"{name} ({bucket})"
    try:
        storage.put(key, PROBE)
        yield from check_object(where, storage, key)
        storage.delete(key)
        _require(not storage.exists(key), "A deleted object is still there.")
        yield ok(where, "an object was written, read and deleted")
    except StorageError as error:
        yield wrong(where, str(error), PERMIT)
        with suppress(StorageError):
            storage.delete(key)


def check_object(where: str, storage: Storage, key: str) -> Iterator[Finding]:
    """Yield findings on the probe that was stored under *key*.

    Raises:
        StorageUnavailableError: The probe is missing, or differs from what was written.
    """
    _require(storage.get(key) == PROBE, "An object was read back with other bytes.")
    if isinstance(storage, S3Storage):
        listed = [found.key for found in storage.list(key)]
        _require(listed == [key], "A stored object is not listed.")
        yield check_presigned(where, storage.url(key))
        yield check_private(where, storage.url(key))


def check_marker(settings: Settings, images: Storage) -> Iterator[Finding]:
    """Yield the finding on whether the storage of *images* is the one of the database."""
    try:
        with closing(open_database(settings, creates=False)) as database:
            is_new = StorageOwnership(database, images).check()
    except StorageMismatchError as error:
        yield wrong("storage marker", str(error), MATCH)
    except ImageProcessorError:
        return  # the other checks report it
    else:
        found = "is not written yet" if is_new else "names this database"
        yield ok("storage marker", f"it {found}")


def check_presigned(where: str, url: str) -> Finding:
    """Return the finding on fetching the probe by its presigned URL, as a client does."""
    name = f"{where}: URLs"
    try:
        with urlopen(url, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - only http and https pass the settings
            data = answer.read()
            encryption = answer.headers["x-amz-server-side-encryption"] or "not reported by S3"
    except (URLError, OSError, HTTPException) as error:
        found = f"A presigned URL cannot be fetched from this machine ({error})."
        return wrong(name, found, PUBLIC_URL)
    if data != PROBE:
        found = "A presigned URL returns other bytes than were written."
        return wrong(name, found, PUBLIC_URL)
    return ok(name, f"a presigned URL was fetched; encrypted at rest: {encryption}")


def check_private(where: str, url: str) -> Finding:
    """Return the finding on fetching the probe without the signature, as a stranger would."""
    name = f"{where}: privacy"
    unsigned = url.partition("?")[0]
    try:
        with urlopen(unsigned, timeout=FETCH_SECONDS):  # noqa: S310 - as above
            return wrong(name, "Anybody can read objects without a signature.", MAKE_PRIVATE)
    except HTTPError as error:
        return ok(name, f"without a signature S3 answers {error.code}")
    except (URLError, OSError, HTTPException) as error:
        return warning(name, f"Unsigned access could not be tried ({error}).", PUBLIC_URL)


def check_rename(staging: LocalStorage, incoming: Path) -> Finding:
    """Return the finding on whether an upload is renamed into *staging* or has to be copied."""
    key = f"doctor-{secrets.token_hex(16)}"
    path = incoming / key
    try:
        path.write_bytes(PROBE)
        before = path.stat().st_ino
        staging.adopt(key, path)
        renamed = (staging.root / key).stat().st_ino == before
    except (StorageError, OSError) as error:
        fix = f"Check the owner and the disk of {incoming.resolve()}."
        return wrong("accepting uploads", str(error), fix)
    finally:
        path.unlink(missing_ok=True)
        staging.delete(key)
    if renamed:
        return ok("accepting uploads", "a file is renamed from incoming to staging")
    return warning("accepting uploads", "A file is copied from incoming to staging.", SAME_DISK)


def _require(met: bool, fault: str) -> None:
    if not met:
        raise StorageUnavailableError(fault)
