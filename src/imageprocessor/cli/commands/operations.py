"""``doctor`` and ``fsck``: check the installation, and compare database and storage."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, read_settings
from imageprocessor.cli.output import (
    print_json,
    print_note,
    print_table,
    show_counts,
    show_status,
)

if TYPE_CHECKING:
    from imageprocessor.queue.maintenance.fsck import Discrepancy

MAX_SHOWN = 1000

Integrity = Annotated[
    bool, typer.Option("--integrity", help="Also check the integrity of the whole SQLite database.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Repair what can be repaired. Default: only report.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    for command in (doctor, fsck):
        app.command(rich_help_panel=PANEL)(command)


def doctor(integrity: Integrity = False, as_json: AsJson = False) -> None:
    """Check everything that the service depends on, and show how to fix problems.

    It checks database, storage, broker, codecs, clock, disks, memory, keys,
    settings and webhooks. The service may be running; the checks leave nothing behind.
    Exit code 1: something is wrong; warnings do not count.

    Example: [bold]imageprocessor doctor[/bold]
    """
    from imageprocessor.environment import find_misspelt_names
    from imageprocessor.queue.maintenance.doctor.examination import examine

    settings = read_settings(quiet=True)
    findings = list(examine(settings, find_misspelt_names(), integrity=integrity))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = []
        for finding in findings:
            verdict = show_status(finding.verdict)
            rows.append((verdict, finding.name, finding.found, finding.fix))
        print_table(("verdict", "check", "found", "fix"), rows)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def fsck(repair: Repair = False, as_json: AsJson = False) -> None:
    """Compare database and storage: every row needs its files, every file its row.

    Without --repair, problems are only reported. With it, the command

    - removes files without a row: uploads older than two hours, images older
      than a day, but nothing older than the database's first upload;

    - fails jobs whose upload is missing or changed;

    - counts the jobs again if /health/stats is wrong.

    An image with missing files is only reported: restore them from a backup, or
    delete the image. Every waiting upload is read and checked.
    Exit code 1: at least one problem was found and not repaired.

    Example: [bold]imageprocessor fsck --repair[/bold]
    """
    from imageprocessor.queue.maintenance.fsck import find_discrepancies
    from imageprocessor.queue.service import open_service

    with (
        open_service(read_settings(quiet=True), creates=False) as service,
        show_counts(silent=as_json) as show,
    ):
        report = summarize(find_discrepancies(service, repair=repair, report=show))
    if as_json:
        print_json({"repair": repair, **report})
    elif report["found"]:
        counts = [(kind.replace("_", " "), count) for kind, count in report["found"].items()]
        print_table(("what", "count"), counts)
        columns = ("kind", "where", "job_id", "remedy")
        rows = [[found[column] for column in columns] for found in report["discrepancies"]]
        print_table(columns, rows)
    else:
        print_note("Database and storage agree.")
    if report["left"]:
        raise typer.Exit(1)


def summarize(discrepancies: Iterable[Discrepancy]) -> dict[str, Any]:
    """Return counts by kind (``found``), the unrepaired (``left``) and the first 1000 in full."""
    found: Counter[str] = Counter()
    left = 0
    first: list[dict[str, Any]] = []
    for discrepancy in discrepancies:
        found[discrepancy.kind] += 1
        left += not discrepancy.repaired
        if len(first) < MAX_SHOWN:
            first.append(asdict(discrepancy))
    return {"found": dict(found), "left": left, "discrepancies": first}
