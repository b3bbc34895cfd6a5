"""The database.

Can it be reached, does it keep what is committed, are its tables ours, can it be written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from sqlalchemy import Connection

from imageprocessor.errors import DatabaseUnavailableError, ImageProcessorError, StorageFullError
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import HEAD, read_revision
from imageprocessor.queue.database.sqlite import has_wal_reset_bug, sqlite_module
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import Settings

OLDEST_POSTGRES = 13
FULL = 2  # what `PRAGMA synchronous` answers
WHERE_TO = "Check DATABASE_URL or DATABASE_PATH, and the server or the disk there."
FREE = "Find who holds the lock, or who may not write: its owner, its disk, a standby server."


def check_database(settings: Settings, *, integrity: bool = False) -> Iterator[Finding]:
    """Yield findings on the database. *integrity*: also read through all of a SQLite file."""
    path = settings.sqlite_path
    if path and not path.exists():
        fix = "`imageprocessor serve` makes it. If the service runs already: set DATA_DIR as it is set there."
        yield warning("database", f"There is no {path.resolve()} yet.", fix)
        return
    try:
        with closing(open_database(settings)) as database:
            with database.read() as connection:
                yield from (check_sqlite if path else check_postgres)(connection)
                yield from check_schema(connection)
                if path and integrity:
                    yield check_integrity(connection)
            yield check_writes(database)
    except ImageProcessorError as error:
        yield wrong("database", str(error), WHERE_TO)


def check_sqlite(connection: Connection) -> Iterator[Finding]:
    """Yield findings on the version of SQLite, and on how this file is written."""
    module = sqlite_module()
    if has_wal_reset_bug(module.sqlite_version_info):
        found = f"SQLite {module.sqlite_version} can, rarely, damage a database that several processes write to."
        yield warning("database version", found, "Use 3.51.3 or newer: pip install pysqlite3")
    else:
        yield ok("database version", f"SQLite {module.sqlite_version}")
    journal, synchronous = (
        _ask(connection, f"PRAGMA {name}") for name in ("journal_mode", "synchronous")
    )
    if (journal, synchronous) == ("wal", FULL):
        yield ok("durability", "journal_mode=WAL, synchronous=FULL")
    else:
        found = f"journal_mode={journal}, synchronous={synchronous}: this file system does not let SQLite use its WAL."
        yield wrong(
            "durability", found, "Put DATABASE_PATH on a local disk (ext4, xfs, btrfs, zfs)."
        )


def check_postgres(connection: Connection) -> Iterator[Finding]:
    """Yield findings on the version of PostgreSQL.

    And on whether a commit there survives a power cut.
    """
    version = str(_ask(connection, "SHOW server_version"))
    if int(version.split(".", maxsplit=1)[0]) >= OLDEST_POSTGRES:
        yield ok("database version", f"PostgreSQL {version}")
    else:
        yield wrong(
            "database version",
            f"PostgreSQL {version} is too old.",
            f"Use {OLDEST_POSTGRES} or newer.",
        )
    values = {
        name: str(_ask(connection, f"SHOW {name}")) for name in ("fsync", "synchronous_commit")
    }
    found = ", ".join(f"{name}={value}" for name, value in values.items())
    if "off" in values.values():
        yield wrong(
            "durability",
            f"{found}: a power cut loses uploads that were accepted.",
            "Set both to on.",
        )
    else:
        yield ok("durability", found)


def check_schema(connection: Connection) -> Iterator[Finding]:
    """Yield the finding on the tables: SettingsError where they are of a newer version."""
    revision = read_revision(connection)
    if revision == HEAD:
        yield ok("tables", f"revision {revision}")
    else:
        found = (
            f"They are at revision {revision}, this version needs {HEAD}."
            if revision
            else "There are none yet."
        )
        yield warning(
            "tables",
            found,
            "`imageprocessor db upgrade`; `serve` and `worker` do it at their start, too.",
        )


def check_integrity(connection: Connection) -> Finding:
    """Read through the file; what is damaged is told in SQLite's words."""
    damage = str(_ask(connection, "PRAGMA quick_check(1)"))
    if damage == "ok":
        return ok("integrity", "quick_check finds no damage")
    return wrong(
        "integrity",
        damage,
        "Stop the service, and restore a backup: imageprocessor restore DIR --replace",
    )


def check_writes(database: Database) -> Finding:
    """Take the lock that an upload takes."""
    with database.read() as connection:
        if read_revision(connection) is None:
            return ok("writes", "not tried: there are no tables yet")
    try:
        with database.write() as connection:
            job_store.change_nothing(connection)
    except (DatabaseUnavailableError, StorageFullError) as error:
        return wrong("writes", str(error), FREE)
    return ok("writes", "the write lock is free")


def _ask(connection: Connection, question: str) -> object:
    return connection.exec_driver_sql(question).scalar_one()
