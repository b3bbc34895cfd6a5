"""``process``, ``strip`` and ``inspect``: work on local files, without database or service."""

# ruff: noqa: PLC0415 - commands import when they run, so that --help does not load decoders
from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imageprocessor.cli.output import (
    print_json,
    print_note,
    print_table,
    show_bytes,
    show_color,
    show_failure,
)
from imageprocessor.core.formats.registry import OUTPUT_FORMAT, list_suffixes
from imageprocessor.core.variants import DEFAULT_QUALITY, DEFAULT_SIZES
from imageprocessor.errors import InvalidVariantError

if TYPE_CHECKING:
    from imageprocessor.cli.batch import Outcome
    from imageprocessor.core.variants import VariantSpec

PANEL = "Images"

Files = Annotated[
    list[Path], typer.Argument(help="Images, and folders to search.", show_default=False)
]
Images = Annotated[list[Path], typer.Argument(help="Images.", show_default=False)]
Image = Annotated[Path, typer.Argument(help="The image.", show_default=False)]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder for the results.", file_okay=False, show_default=False
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="File or folder for the result; - is stdout.", show_default=False
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NAME=WIDTH",
        help="A size to make and its maximum width in pixels; may be repeated.",
        show_default=" ".join(f"{name}={width}" for name, width in DEFAULT_SIZES.items()),
    ),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help=f"{OUTPUT_FORMAT.title} quality.")]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Reject larger images.")]
MaxSize = Annotated[
    float, typer.Option("--max-size-mb", min=0.001, help="Reject larger files; 1 MB is 2^20 bytes.")
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=0, max=256, help="Images to process at once; 0: one per processor."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing file.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per file, each on its own line.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    for command in (process, strip, inspect):
        app.command(rich_help_panel=PANEL)(command)


def process(  # noqa: PLR0913 - one parameter for each option
    files: Files,
    out: OutFolder,
    *,
    size: Sizes = None,
    quality: Quality = DEFAULT_QUALITY,
    max_megapixels: MaxMegapixels = 50,
    max_size_mb: MaxSize = 10,
    jobs: Jobs = 0,
    as_json: AsJson = False,
) -> None:
    """Convert images to clean WebP files: upright, sRGB, no metadata, several sizes.

    The results are named NAME_SIZE.webp; subfolders are mirrored below --out.
    A file that fails does not stop the others; the exit code is then 1.

    Example: [bold]imageprocessor process photos/ --out web[/bold]

    Example: [bold]imageprocessor process a.jpg b.png --out web --size card=400 --json[/bold]
    """
    from imageprocessor.cli.batch import end_now, process_each
    from imageprocessor.cli.files import find_sources, plan_outputs
    from imageprocessor.core.limits import Limits

    variants = parse_sizes(size or [], quality)
    size_names = [spec.name for spec in variants]
    max_bytes = int(max_size_mb * 2**20)
    max_pixels = int(max_megapixels * 1e6)
    limits = Limits(max_bytes=max_bytes, max_pixels=max_pixels)
    sources = find_sources(files, out)
    if not sources:
        *others, last = list_suffixes()
        searched = ", ".join(map(str, files))
        raise typer.BadParameter(
            f"no {', '.join(others)} or {last} in {searched}", param_hint="'FILES'"
        )
    plan = plan_outputs(sources, size_names, out)
    threads = jobs or os.cpu_count() or 1
    outcomes = process_each(plan, variants, limits, threads)
    try:
        failed = show_outcomes(outcomes, len(plan), as_json=as_json)
    except KeyboardInterrupt:
        end_now(130)
    if failed:
        raise typer.Exit(1)


def strip(file: Image, out: OutFile, force: Force = False, as_json: AsJson = False) -> None:
    """Remove the metadata of an image without re-encoding it. No pixel changes.

    Orientation and colour profile are kept: without them, the image would look
    different.

    Example: [bold]imageprocessor strip photo.jpg -o clean.jpg[/bold]

    Example: [bold]imageprocessor strip photo.jpg -o photo.jpg --force[/bold]  (in place)
    """
    from imageprocessor.cli.files import write_file
    from imageprocessor.cli.inspection import NO_LIMITS, list_removed
    from imageprocessor.core.metadata import strip_metadata

    to_stdout = str(out) == "-"
    if to_stdout and as_json:
        raise typer.BadParameter(
            "--json and the image cannot both go to stdout", param_hint="'--out'"
        )
    target = out / file.name if out.is_dir() else out
    if not to_stdout and not force and target.exists():
        raise typer.BadParameter(
            f"{target} exists. Choose another file, or add --force.", param_hint="'--out'"
        )
    data = file.read_bytes()
    clean = strip_metadata(data, NO_LIMITS)
    removed = list_removed(data, clean)
    if to_stdout:
        sys.stdout.buffer.write(clean)
    else:
        write_file(target, clean)
    if as_json:
        report = {
            "file": str(file),
            "out": str(target),
            "removed": removed,
            "size_bytes": len(data),
            "stripped_bytes": len(clean),
        }
        print_json(report, lines=True)
    else:
        names = ", ".join(removed) or "nothing: there was no metadata"
        print_note(f"{file}: removed {names}")


def inspect(files: Images, as_json: AsJson = False) -> None:
    """Show what an image is and what it reveals: place, time, camera and more.

    Example: [bold]imageprocessor inspect photo.jpg[/bold]

    Example: [bold]imageprocessor inspect *.jpg --json | jq 'select(.gps)'[/bold]
    """
    from imageprocessor.cli.inspection import print_report, read_report

    failed = False
    for file in files:
        report = read_report(file)
        failed = failed or "error" in report
        if as_json:
            print_json(report, lines=True)
        else:
            print_report(report)
    if failed:
        raise typer.Exit(1)


def parse_sizes(sizes: Sequence[str], quality: int) -> list[VariantSpec]:
    """Return the variants of *sizes*, each ``NAME=WIDTH``, or the default ones if there are none.

    Raises:
        typer.BadParameter: A size has another form, an invalid name or width, or a repeated name.
    """
    from imageprocessor.core.variants import DEFAULT_VARIANTS, VariantSpec

    if not sizes:
        return [replace(spec, quality=quality) for spec in DEFAULT_VARIANTS]
    variants: dict[str, VariantSpec] = {}
    for size in sizes:
        name, _, width = size.partition("=")
        if not width.isdecimal():
            fault = f"{size!r} is not NAME=WIDTH, such as card=400"
            raise typer.BadParameter(fault, param_hint="'--size'")
        if name in variants:
            raise typer.BadParameter(f"two sizes are named {name!r}", param_hint="'--size'")
        try:
            variants[name] = VariantSpec(name, width=int(width), quality=quality)
        except InvalidVariantError as error:
            raise typer.BadParameter(str(error), param_hint="'--size'") from None
    return list(variants.values())


def show_outcomes(outcomes: Iterable[Outcome], total: int, *, as_json: bool) -> bool:
    """Print each outcome as JSON, or all in a table at the end; return whether any failed."""
    from imageprocessor.cli.batch import progress_bar

    done = []
    with progress_bar(total) as advance:
        for outcome in outcomes:
            done.append(outcome)
            advance()
            if as_json:
                print_json(outcome.to_json(), lines=True)
    if not as_json:
        columns = ("file", "size", "colour", "variants", "bytes", "notes")
        done.sort(key=lambda outcome: outcome.path)
        print_table(columns, map(_outcome_row, done))
    return any(outcome.error for outcome in done)


def _outcome_row(outcome: Outcome) -> tuple[object, ...]:
    if outcome.error:
        return outcome.path, "", "", "", "", show_failure(outcome.to_json()["error"])
    report = outcome.report
    variants = report["variants"]
    size = f"{report['width']}×{report['height']}"
    color = show_color(report["dominant_color"])
    names = ", ".join(variants)
    bytes_in = show_bytes(report["size_bytes"])
    bytes_out = show_bytes(sum(variant["size_bytes"] for variant in variants.values()))
    notes = ", ".join(report["warnings"])
    return outcome.path, size, color, names, f"{bytes_in} → {bytes_out}", notes
