"""``db upgrade``, ``db import``, ``backup`` and ``restore``."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs: the extra may be missing, and --help is quick
from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imageprocessor.cli.commands.service import (
    PANEL,
    AsJson,
    read_settings,
    read_settings_of_service,
)
from imageprocessor.cli.output import (
    print_error,
    print_json,
    print_note,
    print_pairs,
    print_table,
    show_bytes,
)

if TYPE_CHECKING:
    from imageprocessor.queue.maintenance.backup import Manifest

NewFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)]
Backup = Annotated[
    Path, typer.Argument(metavar="DIR", help="What `backup` made.", show_default=False)
]
SqliteFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The SQLite database, processor.db.", show_default=False),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Put it in the place of the database, which is kept aside."),
]

db = typer.Typer(no_args_is_help=True, help="Upgrade the database, or move to another one.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    db.command()(upgrade)
    db.command("import")(import_)
    app.add_typer(db, name="db", rich_help_panel=PANEL)
    for command in (backup, restore):
        app.command(rich_help_panel=PANEL)(command)


@db.callback()
def describe() -> None:
    """Upgrade the database, or move to another one."""


def upgrade(as_json: AsJson = False) -> None:
    """Bring the database to this version's tables, as `serve` and `worker` do when they start.

    Example: [bold]imageprocessor db upgrade[/bold]
    """
    from imageprocessor.queue.database.connections import open_database
    from imageprocessor.queue.database.schema import HEAD, migrate

    with closing(open_database(read_settings(quiet=True))) as database:
        before = migrate(database)
    if as_json:
        print_json({"from": before, "to": HEAD})
    elif before == HEAD:
        typer.echo(f"The database is at revision {HEAD} already: nothing was done.")
    else:
        state = f"at revision {before}" if before else "empty"
        typer.echo(f"The database was {state}; now it is at {HEAD}.")


def import_(file: SqliteFile, as_json: AsJson = False) -> None:
    """Copy all rows of a SQLite database into the empty one that DATABASE_URL names.

    Stop the service first.

    Example: [bold]DATABASE_URL=postgresql+psycopg://me@db/images imageprocessor db import data/processor.db[/bold]
    """  # noqa: E501 - an example stays on one line
    from imageprocessor.queue.maintenance.database_import import import_database

    counts = import_database(file, read_settings(quiet=True))
    if as_json:
        print_json(counts)
    else:
        print_table(("table", "rows"), list(counts.items()), title="Copied")


def backup(directory: NewFolder, as_json: AsJson = False) -> None:
    """Copy the SQLite database to DIR while the service runs. Copy the images after it, not before.

    What is deleted or made between the two copies is the sweep's to put right.

    Example: [bold]imageprocessor backup /backups/$(date +%F)[/bold]
    """
    from imageprocessor.queue.maintenance.backup import back_up

    manifest = back_up(read_settings_of_service(), directory)
    if as_json:
        print_json({"directory": str(directory), **_summarize(manifest)})
    else:
        jobs = [f"{count} {status}" for status, count in manifest.jobs.items() if count]
        facts = {
            "database": show_bytes(manifest.size_bytes),
            "jobs": ", ".join(jobs) or "none",
            "files": len(manifest.storage_keys),
        }
        print_pairs(f"Backup in {directory}", facts)
        print_note("Now copy the storage: the manifest names the files that belong to it.")


def restore(directory: Backup, replace: Replace = False, as_json: AsJson = False) -> None:
    """Put a backup in the place of the SQLite database, while the service is stopped.

    Put the storage back first: images that are missing are named, and make the exit code 1.

    Example: [bold]imageprocessor restore /backups/2024-11-08 --replace[/bold]
    """
    from imageprocessor.queue.maintenance.backup import restore as restore_backup

    restored = restore_backup(read_settings(quiet=True), directory, replace=replace)
    manifest = restored.manifest
    aside = [str(path) for path in restored.kept_aside]
    if as_json:
        print_json({**_summarize(manifest), "kept_aside": aside, "missing": restored.missing})
    else:
        print_note(f"Restored as of {manifest.created_at}.")
        for path in aside:
            print_note(f"Kept aside: {path}")
        print_note(
            "Images that were taken after that are unknown now: "
            "imageprocessor fsck names their files."
        )
        for key in restored.missing:
            typer.echo(key)
    if restored.missing:
        count = f"{len(restored.missing)} of {len(manifest.storage_keys)}"
        print_error(
            f"{count} files that the backup names are not in the storage: put them back too."
        )
        raise typer.Exit(1)


def _summarize(manifest: Manifest) -> dict[str, object]:
    """Return the manifest with the number of its storage keys instead of the keys."""
    return {**asdict(manifest), "storage_keys": len(manifest.storage_keys)}
