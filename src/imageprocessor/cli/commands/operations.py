"""``doctor`` and ``fsck``: is the set-up sound, and do database and storage agree."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs: the extra may be missing, and --help is quick
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imageprocessor.cli.commands.service import (
    PANEL,
    AsJson,
    read_settings,
    read_settings_of_service,
)
from imageprocessor.cli.output import print_json, print_note, print_table, show_status

if TYPE_CHECKING:
    from imageprocessor.queue.maintenance.fsck import Discrepancy

MOST_SHOWN = 1000

Integrity = Annotated[
    bool, typer.Option("--integrity", help="Read through all of a SQLite database, too.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Mend what can be mended. Default: only tell.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    for command in (doctor, fsck):
        app.command(rich_help_panel=PANEL)(command)


def doctor(integrity: Integrity = False, as_json: AsJson = False) -> None:
    """Try everything that the service stands on, and say how to mend what is wrong.

    Database, storage, broker, codecs, clock, disks, memory, keys, settings. It may run beside the
    service, and leaves nothing behind. Exit code 1: something is wrong; warnings do not count.

    Example: [bold]imageprocessor doctor[/bold]
    """
    from imageprocessor.queue.maintenance.doctor.examination import examine

    findings = list(examine(read_settings(quiet=True), integrity=integrity))
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
    """Compare database and storage: what a row names must be there, what is there must have a row.

    Only tells, unless --repair is said. That removes files without a row (uploads after two hours,
    images after a day, nothing from before the database's first upload), and ends jobs whose upload
    is gone or altered. An image whose files are gone is only named: put them back from a backup, or
    delete the image. Every waiting upload is read.
    Exit code 1: something was found and is left as it is.

    Example: [bold]imageprocessor fsck --repair[/bold]
    """
    from imageprocessor.queue.maintenance.fsck import find_discrepancies
    from imageprocessor.queue.service import open_service

    with open_service(read_settings_of_service()) as service:
        discrepancies = find_discrepancies(service, repair=repair)
        report = summarize(discrepancies)
    if as_json:
        print_json({"repair": repair, **report})
    elif report["found"]:
        counts = [(kind.replace("_", " "), count) for kind, count in report["found"].items()]
        print_table(("what", "count"), counts)
        columns = ("kind", "where", "job_id", "remedy")
        rows = [[found[column] for column in columns] for found in report["discrepancies"]]
        print_table(columns, rows, whole="where")
    else:
        print_note("Database and storage agree.")
    if report["left"]:
        raise typer.Exit(1)


def summarize(discrepancies: Iterable[Discrepancy]) -> dict[str, Any]:
    """Return how many were ``found`` of each kind, how many are ``left``, and the first 1000."""
    found: Counter[str] = Counter()
    left = 0
    first: list[dict[str, Any]] = []
    for discrepancy in discrepancies:
        found[discrepancy.kind] += 1
        left += not discrepancy.mended
        if len(first) < MOST_SHOWN:
            first.append(asdict(discrepancy))
    return {"found": dict(found), "left": left, "discrepancies": first}
