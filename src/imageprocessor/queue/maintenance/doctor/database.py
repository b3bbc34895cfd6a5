"""Checks of the database: whether it can be reached and written to, and keeps commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from sqlalchemy import Connection

from imageprocessor.errors import DatabaseUnavailableError, ImageProcessorError, StorageFullError
from imageprocessor.queue.database.connections import (
    FIND_SERVICE,
    Database,
    describe_absence,
    open_database,
)
from imageprocessor.queue.database.postgres import is_pooled
from imageprocessor.queue.database.schema import HEAD, read_revision
from imageprocessor.queue.database.sqlite import (
    find_newer_sqlite,
    has_wal_reset_bug,
    sqlite_module,
)
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.queue.pause import find_pause
from imageprocessor.settings import Settings

OLDEST_POSTGRES = 13
LARGE_SHARE = 0.8  #: of the connections that a server allows
#: Connections in use, and those allowed to users who are not superusers.
COUNT_CONNECTIONS = """
    SELECT sum(numbackends),
        current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
    FROM pg_stat_database
"""
CHECK_LOCATION = "Check DATABASE_URL or DATABASE_PATH, and the server or disk that it names."
FIND_BLOCKER = (
    "Find the process that holds the lock, or what prevents writing: "
    "the file's owner, the disk, or a standby server."
)


def check_database(settings: Settings, *, integrity: bool = False) -> Iterator[Finding]:
    """Yield findings on the database. *integrity*: also check a whole SQLite file."""
    path = settings.sqlite_path
    if path and not path.exists():
        yield warning("database", describe_absence(settings), FIND_SERVICE)
        return
    try:
        with closing(open_database(settings, creates=False)) as database:
            with database.read() as connection:
                if path:
                    yield from check_sqlite(connection)
                else:
                    yield from check_postgres(connection)
                    yield from check_connections(connection, settings)
                yield from check_schema(connection)
                yield from check_pause(connection)
                if path and integrity:
                    yield check_integrity(connection)
            yield check_writes(database)
    except ImageProcessorError as error:
        yield wrong("database", str(error), CHECK_LOCATION)


def check_sqlite(connection: Connection) -> Iterator[Finding]:
    """Yield findings on the version of SQLite, and on whether this file keeps commits."""
    module = sqlite_module()
    if has_wal_reset_bug(module.sqlite_version_info):
        found = (
            f"SQLite {module.sqlite_version} has a rare bug "
            "that can damage a database which several processes write to."
        )
        yield warning("database version", found, find_newer_sqlite())
    else:
        yield ok("database version", f"SQLite {module.sqlite_version}")
    journal = _ask(connection, "PRAGMA journal_mode")
    if journal == "wal":
        yield ok("durability", "journal_mode=WAL")
    else:
        found = f"journal_mode={journal}: SQLite cannot use its WAL on this file system."
        fix = "Put DATABASE_PATH on a local disk (ext4, xfs, btrfs, zfs)."
        yield wrong("durability", found, fix)


def check_postgres(connection: Connection) -> Iterator[Finding]:
    """Yield findings on PostgreSQL's version, and on whether a commit survives a power cut."""
    version = str(_ask(connection, "SHOW server_version"))
    if int(version.split(".", maxsplit=1)[0]) >= OLDEST_POSTGRES:
        yield ok("database version", f"PostgreSQL {version}")
    else:
        found = f"PostgreSQL {version} is too old."
        yield wrong("database version", found, f"Use {OLDEST_POSTGRES} or newer.")
    fsync = _ask(connection, "SHOW fsync")
    synchronous_commit = _ask(connection, "SHOW synchronous_commit")
    found = f"fsync={fsync}, synchronous_commit={synchronous_commit}"
    if "off" in {fsync, synchronous_commit}:
        lost = f"{found}: a power cut can lose accepted uploads."
        yield wrong("durability", lost, "Set both to on.")
    else:
        yield ok("durability", found)


def check_connections(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Yield findings on a pooler in between, and on the connections that the server has left."""
    pooled = is_pooled(connection)
    if pooled and settings.database_direct_url is None:
        found = "DATABASE_URL leads to a pooler, such as PgBouncer."
        fix = (
            "Set DATABASE_DIRECT_URL to PostgreSQL's own address, for `db upgrade` and backups; "
            "the service still uses DATABASE_URL."
        )
        yield warning("connections", found, fix)
    used, allowed = connection.exec_driver_sql(COUNT_CONNECTIONS).one()
    found = f"{used} of {allowed} in use" + (", through a pooler" if pooled else "")
    if used <= LARGE_SHARE * allowed:
        yield ok("connections", found)
        return
    fix = "Lower the pooler's default_pool_size" if pooled else "Put PgBouncer in between"
    refused = f"{found}: PostgreSQL refuses the rest."
    yield warning("connections", refused, f"{fix}, or raise max_connections.")


def check_schema(connection: Connection) -> Iterator[Finding]:
    """Yield the finding on the tables; raise SettingsError if they need a newer version."""
    revision = read_revision(connection)
    if revision is not None and revision >= HEAD:
        yield ok("tables", f"revision {revision}")
        return
    found = "There are no tables yet."
    if revision:
        found = f"They are at revision {revision}; this version needs {HEAD}."
    fix = "Run `imageprocessor db upgrade`; `serve` and `worker` also do so when they start."
    yield warning("tables", found, fix)


def check_pause(connection: Connection) -> Iterator[Finding]:
    """Yield a finding if the workers are paused."""
    if (read_revision(connection) or "") < HEAD:
        return
    if paused := find_pause(connection):
        yield warning("workers", f"They are {paused}: jobs wait.", "imageprocessor jobs resume")


def check_integrity(connection: Connection) -> Finding:
    """Return the finding on the whole file, with SQLite's description of any damage."""
    damage = str(_ask(connection, "PRAGMA quick_check(1)"))
    if damage == "ok":
        return ok("integrity", "quick_check finds no damage")
    fix = "Stop the service and restore a backup: imageprocessor restore DIR --replace"
    return wrong("integrity", damage, fix)


def check_writes(database: Database) -> Finding:
    """Return the finding on the write lock, which an upload needs; take it, but write nothing."""
    with database.read() as connection:
        if read_revision(connection) is None:
            return ok("writes", "not tried: there are no tables yet")
    try:
        with database.write() as connection:
            job_store.change_nothing(connection)
    except (DatabaseUnavailableError, StorageFullError) as error:
        return wrong("writes", str(error), FIND_BLOCKER)
    return ok("writes", "the write lock is free")


def _ask(connection: Connection, question: str) -> object:
    return connection.exec_driver_sql(question).scalar_one()
