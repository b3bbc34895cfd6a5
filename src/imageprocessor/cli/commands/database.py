"""``db upgrade``, ``db import``, ``backup`` and ``restore``."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, read_settings
from imageprocessor.cli.output import (
    print_error,
    print_json,
    print_note,
    print_pairs,
    print_table,
    show_bytes,
    show_counts,
)

MAX_SHOWN = 1000  #: missing files, in JSON

NewFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)]
Backup = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder made by `backup`.", show_default=False)
]
SqliteFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="The SQLite database file, processor.db.", show_default=False
    ),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace an existing database; it is renamed, not deleted."),
]

db = typer.Typer(no_args_is_help=True, help="Upgrade the database, or copy it to another one.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    db.command()(upgrade)
    db.command("import")(import_)
    app.add_typer(db, name="db", rich_help_panel=PANEL)
    for command in (backup, restore):
        app.command(rich_help_panel=PANEL)(command)


@db.callback()
def describe() -> None:
    """Upgrade the database, or copy it to another one."""


def upgrade(as_json: AsJson = False) -> None:
    """Upgrade the tables of the database to this version, as `serve` and `worker` do at start.

    Example: [bold]imageprocessor db upgrade[/bold]
    """
    from imageprocessor.queue.database.connections import open_database
    from imageprocessor.queue.database.schema import HEAD, migrate
    from imageprocessor.queue.jobs.figures import ensure_snapshot

    with closing(open_database(read_settings(quiet=True))) as database:
        before = migrate(database)
        ensure_snapshot(database)
    if as_json:
        print_json({"from": before, "to": HEAD})
    elif before == HEAD:
        typer.echo(f"The database is already at revision {HEAD}. Nothing was done.")
    else:
        state = f"at revision {before}" if before else "empty"
        typer.echo(f"The database was {state}; it is now at revision {HEAD}.")


def import_(file: SqliteFile, as_json: AsJson = False) -> None:
    """Copy all rows of a SQLite database into the empty database at DATABASE_URL.

    Stop the service first.

    Example: [bold]DATABASE_URL=postgresql+psycopg://me@db/images imageprocessor db import data/processor.db[/bold]
    """  # noqa: E501 - an example must be one line
    from imageprocessor.queue.maintenance.database_import import import_database

    with show_counts(silent=as_json) as report:
        counts = import_database(file, read_settings(quiet=True), report)
    if as_json:
        print_json(counts)
    else:
        print_table(("table", "rows"), list(counts.items()), title="Copied")


def backup(directory: NewFolder, as_json: AsJson = False) -> None:
    """Copy the SQLite database to DIR. The service may be running.

    Copy the images afterwards, not before. After a restore, the sweep cleans up
    what was created or deleted between the two copies.

    Example: [bold]imageprocessor backup /backups/$(date +%F)[/bold]
    """
    from imageprocessor.queue.maintenance.backup import back_up

    with show_counts(silent=as_json) as report:
        manifest = back_up(read_settings(quiet=True), directory, report)
    if as_json:
        print_json({"directory": str(directory), **asdict(manifest)})
    else:
        jobs = [f"{count} {status}" for status, count in manifest.jobs.items() if count]
        facts = {
            "database": show_bytes(manifest.size_bytes),
            "jobs": ", ".join(jobs) or "none",
            "files": manifest.files,
        }
        print_pairs(f"Backup in {directory}", facts)
        print_note("Now copy the storage.")


def restore(directory: Backup, replace: Replace = False, as_json: AsJson = False) -> None:
    """Restore the SQLite database from a backup. Stop the service first.

    Restore the storage before this: the command lists missing files and then
    exits with code 1.

    Example: [bold]imageprocessor restore /backups/2024-11-08 --replace[/bold]
    """
    from imageprocessor.queue.maintenance.backup import find_missing
    from imageprocessor.queue.maintenance.backup import restore as restore_backup

    settings = read_settings(quiet=True)
    restored = restore_backup(settings, directory, replace=replace)
    manifest = restored.manifest
    aside = [str(path) for path in restored.replaced]
    if not as_json:
        print_note(f"Restored the database as of {manifest.created_at}.")
        for path in aside:
            print_note(f"The previous database was kept: {path}")
        print_note(
            "Images uploaded after that are no longer in the database. "
            "Run 'imageprocessor fsck' to list their files."
        )
    count = 0
    first: list[str] = []
    with show_counts(silent=as_json) as report:
        for key in find_missing(settings, report):
            count += 1
            if not as_json:
                typer.echo(key)
            elif count <= MAX_SHOWN:
                first.append(key)
    if as_json:
        missing = {"missing_count": count, "missing": first}
        print_json({**asdict(manifest), "replaced": aside, **missing})
    if count:
        print_error(
            f"{count} of {manifest.files} files of the backup are missing from the storage. "
            "Restore them too."
        )
        raise typer.Exit(1)
