"""``migrate-storage``: from the local disk to S3, or back."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs: the extra may be missing, and --help is quick
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, DryRun, read_settings_of_service
from imageprocessor.cli.output import print_error, print_json, print_note, print_pairs, show_bytes

if TYPE_CHECKING:
    from imageprocessor.queue.maintenance.storage_migration import Outcome, Storages

Target = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="PLACE",
        help="s3://BUCKET (one for all), s3:// (one for each of ALLOWED_BUCKETS) or local:///absolute/path.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    app.command(rich_help_panel=PANEL)(migrate_storage)


def migrate_storage(to: Target, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Copy every image and every waiting upload to another storage.

    At the end it names the settings to switch to.

    S3 is reached as S3_ENDPOINT_URL and AWS_… say. What is there with the same bytes is not copied
    again, so that a run that broke off goes on where it was. The source is left as it is.

    First run it while the service works. Then stop the service, run it again for what came
    meanwhile, and switch.

    Example: [bold]imageprocessor migrate-storage --to s3://my-images --dry-run[/bold]
    """
    from imageprocessor.queue.maintenance.storage_migration import (
        change_location,
        count_jobs,
        find_open_work,
        list_variables,
        migrate,
        open_targets,
    )
    from imageprocessor.queue.service import open_service

    settings = read_settings_of_service()
    changed = change_location(settings, to)
    with open_service(settings) as service:
        sources = (service.storage, service.staging)
        before = count_jobs(service)
        targets = open_targets(changed, dry_run=dry_run)
        outcomes = migrate(sources, targets, dry_run=dry_run)
        report = summarize(show_progress(sources, outcomes))
        open_work = None if dry_run else find_open_work(service, before)
    report |= {"dry_run": dry_run, "unrest": open_work, "settings": list_variables(changed)}
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if report["failed"] or open_work:
        raise typer.Exit(1)


def show_progress(sources: Storages, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield *outcomes*; meanwhile draw a bar of bytes on stderr if that is a terminal."""
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
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        total = None
        if console.is_terminal:
            total = sum(stored.size_bytes for _, stored in list_objects(sources))
        task = progress.add_task("bytes", total=total)
        for outcome in outcomes:
            progress.advance(task, outcome.stored.size_bytes)
            yield outcome


def summarize(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return how many objects were ``copied`` or ``there`` already, and those that ``failed``."""
    report: dict[str, Any] = {"copied": 0, "copied_bytes": 0, "there": 0, "failed": []}
    for outcome in outcomes:
        if error := outcome.error:
            failure = {"key": outcome.stored.key, "error": str(error), "error_code": error.code}
            report["failed"].append(failure)
        elif outcome.copied:
            report["copied"] += 1
            report["copied_bytes"] += outcome.stored.size_bytes
        else:
            report["there"] += 1
    return report


def print_report(report: dict[str, Any]) -> None:
    """Print the counts and failures, then why not to switch yet, or the settings to switch to."""
    title, copied = ("Would be done", "to copy") if report["dry_run"] else ("Done", "copied")
    size = show_bytes(report["copied_bytes"])
    counts = {
        copied: f"{report['copied']} ({size})",
        "there already": report["there"],
        "failed": len(report["failed"]),
    }
    print_pairs(title, counts)
    for failure in report["failed"]:
        print_note(f"{failure['key']}: {failure['error']}")
    if report["failed"]:
        print_error(
            "not everything could be copied. Do not switch: mend the cause and run this again."
        )
    elif report["unrest"]:
        print_error(
            f"{report['unrest']}. More may come to the old place: do not switch yet. "
            "Stop the API, let the workers finish the open jobs, stop them too, and run this again."
        )
    elif not report["dry_run"]:
        print_note(
            "Everything is there. "
            "While the service is stopped, switch to these settings, then start it:"
        )
        for name, value in report["settings"].items():
            typer.echo(f"{name}={value}")
