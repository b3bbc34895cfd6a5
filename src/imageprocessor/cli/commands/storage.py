"""``migrate-storage``: copy images from the local disk to S3, or back."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, DryRun, read_settings
from imageprocessor.cli.output import print_error, print_json, print_note, print_pairs, show_bytes

if TYPE_CHECKING:
    from imageprocessor.queue.maintenance.storage_migration import Outcome, Storages

MAX_SHOWN = 1000  #: failures

Target = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="PLACE",
        help="s3://BUCKET (one bucket for all images), s3:// (one for each of ALLOWED_BUCKETS) "
        "or local:///absolute/path.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    app.command(rich_help_panel=PANEL)(migrate_storage)


def migrate_storage(to: Target, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Copy all images and waiting uploads to another storage.

    S3_ENDPOINT_URL and AWS_… say how to reach S3. Objects that are already there
    with the same bytes are skipped, so that an interrupted run continues.
    The source is not changed.

    Run it first while the service is running. Then stop the service, run it again
    for uploads since then, and switch to the settings that it prints.

    Example: [bold]imageprocessor migrate-storage --to s3://my-images --dry-run[/bold]
    """
    from imageprocessor.queue.database import clock
    from imageprocessor.queue.maintenance.storage_migration import (
        change_location,
        find_open_work,
        list_variables,
        migrate,
        open_targets,
        own_targets,
    )
    from imageprocessor.queue.service import open_service

    settings = read_settings(quiet=True)
    changed = change_location(settings, to)
    with open_service(settings, creates=False) as service:
        sources = (service.storage, service.staging)
        started = clock.utc_now()
        targets = open_targets(changed, dry_run=dry_run)
        ownerships = own_targets(service, targets)
        outcomes = migrate(sources, targets, dry_run=dry_run)
        report = summarize(show_progress(sources, outcomes, silent=as_json))
        if not dry_run and not report["failed"]:
            for ownership in ownerships:
                ownership.claim_all()
        open_work = None if dry_run else find_open_work(service, started)
    report |= {"dry_run": dry_run, "open_work": open_work, "settings": list_variables(changed)}
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if report["failed"] or open_work:
        raise typer.Exit(1)


def show_progress(
    sources: Storages, outcomes: Iterable[Outcome], *, silent: bool
) -> Iterator[Outcome]:
    """Yield *outcomes* while showing a progress bar in bytes if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from imageprocessor.queue.maintenance.storage_migration import list_objects

    console = Console(stderr=True)
    columns = (
        TextColumn("copying"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    disable = silent or not console.is_terminal
    progress = Progress(*columns, console=console, transient=True, disable=disable)
    with progress:
        total = None
        if not disable:
            total = sum(stored.size_bytes for _, stored in list_objects(sources))
        task = progress.add_task("bytes", total=total)
        for outcome in outcomes:
            progress.advance(task, outcome.stored.size_bytes)
            yield outcome


def summarize(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return the number of objects in each state, and the first 1000 ``failures`` in full."""
    report: dict[str, Any] = {"copied": 0, "copied_bytes": 0, "already_there": 0, "failed": 0}
    failures: list[dict[str, str]] = []
    for outcome in outcomes:
        if error := outcome.error:
            report["failed"] += 1
            failure = {"key": outcome.stored.key, "error": str(error), "error_code": error.code}
            if len(failures) < MAX_SHOWN:
                failures.append(failure)
        elif outcome.copied:
            report["copied"] += 1
            report["copied_bytes"] += outcome.stored.size_bytes
        else:
            report["already_there"] += 1
    return {**report, "failures": failures}


def print_report(report: dict[str, Any]) -> None:
    """Print counts and failures, then the settings to switch to or why it is too early for that."""
    is_dry_run = report["dry_run"]
    size = show_bytes(report["copied_bytes"])
    counts = {
        "to copy" if is_dry_run else "copied": f"{report['copied']} ({size})",
        "already there": report["already_there"],
        "failed": report["failed"],
    }
    print_pairs("Dry run" if is_dry_run else "Done", counts)
    for failure in report["failures"]:
        print_note(f"{failure['key']}: {failure['error']}")
    if report["failed"]:
        print_error(
            "Some objects could not be copied. Do not switch yet. Fix the cause and run this again."
        )
    elif report["open_work"]:
        print_error(
            f"{report['open_work']}. The old storage may still change: do not switch yet. "
            "Stop the API, let the workers finish the open jobs, stop them too and run this again."
        )
    elif not is_dry_run:
        print_note(
            "All objects are in the new storage. "
            "With the service stopped, change these settings, then start it:"
        )
        for name, value in report["settings"].items():
            typer.echo(f"{name}={value}")
