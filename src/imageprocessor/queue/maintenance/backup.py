"""Backup and restore of a SQLite database. Back up the images separately, after the database.

A backup is a folder with the database, the key that signs tokens (if it was generated) and a
manifest. The manifest is written last: a backup without one is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import imageprocessor
from imageprocessor.errors import ImageProcessorError, SettingsError
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.postgres import name_database
from imageprocessor.queue.database.schema import check_revision, read_revision
from imageprocessor.queue.database.sqlite import checkpoint_wal, copy_database, find_damage
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs import inventory, job_store
from imageprocessor.queue.maintenance.catalogue import open_catalogue
from imageprocessor.queue.maintenance.progress import Report, counted, ignore
from imageprocessor.queue.service import open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.files import replace_file

DATABASE_NAME = "processor.db"
KEY_NAME = "jwt_secret_key"  #: the name that `tokens` uses in DATA_DIR
MANIFEST_NAME = "manifest.json"
PRIVATE_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of a backup."""

    version: str  #: of the package that made it
    revision: str | None  #: the database's last migration
    created_at: str
    sha256: str  #: of the database file
    size_bytes: int
    jobs: dict[str, int]  #: the number in each status
    files: int  #: the number of variants of completed images, which the database names


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    manifest: Manifest
    replaced: tuple[Path, ...]  #: the replaced files, under their new names


def back_up(settings: Settings, directory: Path, report: Report = ignore) -> Manifest:
    """Copy the database to *directory*, which is created if missing. The service may run meanwhile.

    *report* is called with the number of pages and jobs so far.

    Raises:
        SettingsError: The database is PostgreSQL, which has its own tools, or is missing.
        ImageProcessorError: *directory* is not empty, or the database is damaged.
        DatabaseUnavailableError: The database cannot be read, or the copy cannot be written.
    """
    path = settings.sqlite_path
    if path is None:
        command = f"pg_dump --format=custom --file={_dump(directory)} --dbname="
        raise _use_own_tool(settings, command)
    database = open_database(settings, creates=False)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ImageProcessorError(f"{directory} is not empty. Use a new folder for each backup.")

    created_at = clock.to_text(clock.utc_now())
    # SQLite must copy to a local disk, and *directory* may be on another host.
    with TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
        copy = Path(folder) / DATABASE_NAME
        with closing(database), database.read() as connection:
            copy_database(connection, copy, partial(report, "pages copied"))
        manifest = _describe(settings, copy, created_at, report)
        _copy_file(copy, directory / DATABASE_NAME)
    key = settings.data_dir / KEY_NAME
    if key.exists():
        _copy_file(key, directory / KEY_NAME)
    described = json.dumps(asdict(manifest), indent=1)
    replace_file(directory / MANIFEST_NAME, described.encode(), PRIVATE_MODE)
    return manifest


def restore(settings: Settings, directory: Path, *, replace: bool = False) -> Restored:
    """Restore the database from the backup in *directory*; see also :func:`find_missing`.

    Raises:
        SettingsError: The database is PostgreSQL, or the backup is from a newer version.
        ImageProcessorError: The backup is incomplete or damaged, the service is running, or a
            database exists and *replace* is not set.
    """
    path = settings.sqlite_path
    if path is None:
        command = f"pg_restore --clean --if-exists {_dump(directory)} --dbname="
        raise _use_own_tool(settings, command)
    manifest = _read_manifest(directory)
    _check_backup(directory, manifest)
    _check_target(settings, path, replace=replace)
    targets = {DATABASE_NAME: path, KEY_NAME: settings.data_dir / KEY_NAME}
    replaced = _put_back(directory, targets)
    return Restored(manifest, replaced)


def find_missing(settings: Settings, report: Report = ignore) -> Iterator[str]:
    """Yield the keys of variants that the database names, but that are not in the storage.

    *report* is called with the number of images and jobs so far.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: One of them failed.
    """
    images, _ = open_storages(settings)
    with (
        closing(open_database(settings, creates=False)) as database,
        open_catalogue() as catalogue,
    ):
        for _ in counted(catalogue.record(images.list()), "images listed", report):
            pass
        jobs = inventory.iterate_variants(database)
        for keys in counted(jobs, "jobs checked", report):
            for key in keys:
                if catalogue.find_size(key) is None:
                    yield key


def _use_own_tool(settings: Settings, command: str) -> SettingsError:
    url = settings.database_direct_url or settings.database_url
    assert url is not None
    return SettingsError(
        "The database is PostgreSQL. Use its own tool, which asks for the password or reads "
        f"~/.pgpass:\n  {command}{shlex.quote(name_database(url.get_secret_value()))}"
    )


def _dump(directory: Path) -> str:
    return shlex.quote(str(directory / "processor.dump"))


def _describe(settings: Settings, copy: Path, created_at: str, report: Report) -> Manifest:
    copied = settings.model_copy(update={"database_url": None, "database_path": copy})
    with closing(open_database(copied)) as database, database.read() as connection:
        revision = read_revision(connection)
        jobs = job_store.count_by_status(connection)
        variants = inventory.iterate_variants(database)
        files = sum(map(len, counted(variants, "jobs checked", report)))
    checkpoint_wal(copy)
    if damage := find_damage(copy):
        raise ImageProcessorError(
            f"The database is damaged ({damage}). Keep your older backups, and restore one of them."
        )
    return Manifest(
        version=imageprocessor.__version__,
        revision=revision,
        created_at=created_at,
        sha256=_hash(copy),
        size_bytes=copy.stat().st_size,
        jobs=jobs,
        files=files,
    )


def _read_manifest(directory: Path) -> Manifest:
    try:
        text = (directory / MANIFEST_NAME).read_text(encoding="utf-8")
        return Manifest(**json.loads(text))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError) as error:
        raise ImageProcessorError(
            f"{directory} is not a complete backup: {MANIFEST_NAME} is missing or unreadable. "
            "Use another backup."
        ) from error


def _check_backup(directory: Path, manifest: Manifest) -> None:
    path = directory / DATABASE_NAME
    check_revision(manifest.revision, manifest.revision)
    if not path.exists() or _hash(path) != manifest.sha256:
        raise ImageProcessorError(
            f"{path} is missing or not the file that was backed up: the SHA-256 differs. "
            "Use another backup."
        )
    if damage := find_damage(path):
        raise ImageProcessorError(f"{path} is damaged ({damage}). Use another backup.")


def _check_target(settings: Settings, path: Path, *, replace: bool) -> None:
    exists = path.exists()
    if exists and not replace:
        raise ImageProcessorError(
            f"There is already a database at {path}. "
            "Add --replace to restore the backup in its place; the old one is renamed."
        )
    supervisors = presence.list_live(workers_directory(settings))
    if supervisors or (exists and not checkpoint_wal(path)):  # another process has it open
        raise ImageProcessorError(
            f"The service is running on {path}. Stop everything that uses it (serve, worker) first."
        )


def _put_back(directory: Path, targets: dict[str, Path]) -> tuple[Path, ...]:
    """Copy a backup's files to *targets*; return the new names of the files that were there."""
    replaced: list[Path] = []
    suffix = f".before-{clock.utc_now():%Y%m%dT%H%M%SZ}"
    for name, target in targets.items():
        source = directory / name
        if not source.exists():
            continue
        # A damaged database leaves its WAL, which SQLite would apply to the restored one.
        for ending in ("", "-wal", "-shm"):
            old = target.with_name(target.name + ending)
            if old.exists():
                new_name = target.name + suffix + ending
                replaced.append(old.rename(target.with_name(new_name)))
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _copy_file(source, target)
    return tuple(replaced)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        replace_file(target, file, PRIVATE_MODE)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
