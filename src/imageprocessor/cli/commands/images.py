"""Commands that work on local files, without database or service: ``process`` and others."""

# ruff: noqa: PLC0415 - commands import when they run, so that --help does not load decoders
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from imageprocessor.cli.output import (
    print_error,
    print_json,
    print_note,
    print_table,
    show_bytes,
    show_color,
    show_failure,
)
from imageprocessor.core.formats.registry import (
    DEFAULT_OUTPUT,
    OUTPUT_FORMATS,
    find_output,
    list_installed_mime_types,
    list_suffixes,
)
from imageprocessor.core.variants import DEFAULT_SIZES
from imageprocessor.errors import InvalidTransformationError, InvalidVariantError

if TYPE_CHECKING:
    from imageprocessor.cli.batch import Outcome
    from imageprocessor.cli.files import Plan
    from imageprocessor.core.variants import VariantSpec

PANEL = "Images"

Files = Annotated[
    list[Path],
    typer.Argument(help="Images, and folders to search; - is stdin.", show_default=False),
]
Images = Annotated[list[Path], typer.Argument(help="Images; - is stdin.", show_default=False)]
Image = Annotated[Path, typer.Argument(help="The image; - is stdin.", show_default=False)]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the results; - is stdout, for one image and one --size.",
        file_okay=False,
        show_default=False,
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="File or folder for the result; - is stdout.", show_default=False
    ),
]
Operations = Annotated[
    str,
    typer.Argument(
        help="Operations, such as w_400,h_300,fit_cover, in any order.", show_default=False
    ),
]
Watermarks = Annotated[
    list[str] | None,
    typer.Option(
        "--watermark",
        metavar="NAME=FILE",
        help="An image that wm_NAME:… draws; may be repeated.",
        show_default=False,
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
Quality = Annotated[
    str | None,
    typer.Option(
        metavar="1 to 100, or auto",
        help="Highest quality to use, or the lowest that looks the same.",
        show_default="85, AVIF 60",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of the results: webp, avif, jpeg or png; may be repeated.",
        show_default=DEFAULT_OUTPUT,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of the result: webp, avif, jpeg or png.",
        show_default="by the suffix of --out, else webp",
    ),
]
Lossless = Annotated[
    bool | None,
    typer.Option(
        "--lossless/--no-lossless",
        help="Make each WebP lossless, or none.",
        show_default="graphics that stay small",
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Lower the quality until each file has at most so many bytes.",
        show_default=False,
    ),
]
Animation = Annotated[
    Literal["first", "keep"],
    typer.Option(help="What to keep of an animation: its first frame, or all frames."),
]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Reject larger images.")]
MaxSize = Annotated[
    float, typer.Option("--max-size-mb", min=0.001, help="Reject larger files; 1 MB is 2^20 bytes.")
]
MaxFrames = Annotated[int, typer.Option(min=1, help="Reject longer animations that are kept.")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=0, max=256, help="Images to process at once; 0: one per processor."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing files.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per file, each on its own line.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    for command in (process, transform, strip, inspect):
        app.command(rich_help_panel=PANEL)(command)


def process(  # noqa: PLR0913 - one parameter for each option
    files: Files,
    out: OutFolder,
    *,
    size: Sizes = None,
    format: Formats = None,  # noqa: A002 - names the option
    quality: Quality = None,
    lossless: Lossless = None,
    max_bytes: MaxBytes = None,
    animation: Animation = "first",
    max_megapixels: MaxMegapixels = 50,
    max_size_mb: MaxSize = 10,
    max_frames: MaxFrames = 300,
    jobs: Jobs = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Convert images to clean files: upright, sRGB, no metadata, several sizes.

    The results are named NAME_SIZE.webp, or .avif, .jpg and .png if --format says so;
    subfolders are mirrored below --out.
    A file that fails does not stop the others; the exit code is then 1.

    Example: [bold]imageprocessor process photos/ --out web[/bold]

    Example: [bold]imageprocessor process a.jpg b.png --out web --size card=400 --json[/bold]

    Example: [bold]imageprocessor process a.jpg --out web --format avif --format webp[/bold]

    Example: [bold]curl … | imageprocessor process - --out - --size card=400 > card.webp[/bold]
    """
    from imageprocessor.cli.batch import end_now, process_each
    from imageprocessor.core.limits import Limits

    options = {
        "formats": parse_formats(format or []),
        "quality": parse_quality(quality),
        "lossless": "auto" if lossless is None else lossless,
        "max_bytes": max_bytes,
        "animation": animation,
    }
    variants = set_options(parse_sizes(size or []), options)
    names: dict[str, str] = {}
    for spec in variants:
        names |= spec.files
    limits = Limits(
        max_bytes=int(max_size_mb * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_frames=max_frames,
        mime_types=frozenset(list_installed_mime_types()),
    )
    plan = make_plan(files, names, out, force=force, as_json=as_json)
    threads = jobs or os.cpu_count() or 1
    outcomes = process_each(plan, variants, limits, threads)
    try:
        failed = show_outcomes(outcomes, len(plan), out, as_json=as_json)
    except KeyboardInterrupt:
        end_now(130)
    if failed:
        raise typer.Exit(1)


def transform(  # noqa: PLR0913 - one parameter for each option
    file: Image,
    operations: Operations,
    out: OutFile,
    *,
    watermark: Watermarks = None,
    format: Format = None,  # noqa: A002 - names the option
    max_megapixels: MaxMegapixels = 50,
    max_size_mb: MaxSize = 10,
    max_frames: MaxFrames = 300,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Crop, resize, filter or decorate an image. The result is a clean file.

    The operations always apply in the same order, however they are written; see
    docs/library.md for all of them.

    Example: [bold]imageprocessor transform a.jpg w_400,h_300,fit_cover,g_auto -o card.webp[/bold]

    Example: [bold]imageprocessor transform a.png trim_1,pad_20,bg_ffffff -o logo.jpg[/bold]

    Example: [bold]imageprocessor transform a.jpg wm_us:se:80:25 --watermark us=us.png -o -[/bold]
    """
    from imageprocessor.cli.files import open_input, write_file
    from imageprocessor.core.limits import Limits
    from imageprocessor.core.pipeline import transform as transform_image
    from imageprocessor.core.transformations.grammar import Transformation

    try:
        wanted = Transformation.parse(operations)
    except InvalidTransformationError as error:
        raise typer.BadParameter(str(error), param_hint="'OPERATIONS'") from None
    output = choose_output(format, out)
    name = file.with_suffix(OUTPUT_FORMATS[output].suffix).name
    target = choose_target(file, name, out, force=force, as_json=as_json)
    watermarks = parse_watermarks(watermark or [])
    limits = Limits(
        max_bytes=int(max_size_mb * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_frames=max_frames,
        mime_types=frozenset(list_installed_mime_types()),
    )
    source, _ = open_input(file, limits.max_bytes)
    variant = transform_image(source, wanted, limits, watermarks, format=output)
    write_file(target, variant.data)
    if as_json:
        report = {
            "file": str(file),
            "out": str(target),
            "operations": str(wanted),
            **variant.describe(),
        }
        print_json(report, lines=True)
    else:
        facts = [f"{variant.width}×{variant.height}", show_bytes(variant.size_bytes)]
        print_note(f"{file}: {', '.join([*facts, *variant.warnings])}")


def strip(file: Image, out: OutFile, force: Force = False, as_json: AsJson = False) -> None:
    """Remove the metadata of an image without re-encoding it. No pixel changes.

    Orientation and colour profile are kept: without them, the image would look
    different. An image with missing pixels, or with data hidden behind its last
    pixel, is refused.

    Example: [bold]imageprocessor strip photo.jpg -o clean.jpg[/bold]

    Example: [bold]imageprocessor strip photo.jpg -o photo.jpg --force[/bold]  (in place)

    Example: [bold]curl … | imageprocessor strip - -o - > clean.jpg[/bold]
    """
    from imageprocessor.cli.files import open_input, write_file
    from imageprocessor.cli.inspection import NO_LIMITS, list_removed
    from imageprocessor.core.metadata import strip_metadata
    from imageprocessor.core.source import open_source

    target = choose_target(file, file.name, out, force=force, as_json=as_json)
    source, _ = open_input(file)
    with open_source(source) as opened:
        data = opened.read()
    clean = strip_metadata(data, NO_LIMITS, check_pixels=True)
    removed = list_removed(data, clean)
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


def choose_target(file: Path, name: str, out: Path, *, force: bool, as_json: bool) -> Path:
    """Return where the result of *file* goes: *out*, or *name* in it if it is a folder.

    Raises:
        typer.BadParameter: Stdin has no name in a folder, the result exists already, or it and its
            description would both go to stdout.
    """
    from imageprocessor.cli.files import STREAM, refuse_to_overwrite

    if out == STREAM and as_json:
        refuse_json_on_stdout()
    target = out
    if out != STREAM and out.is_dir():
        if file == STREAM:
            raise typer.BadParameter(
                f"{out} is a folder, and stdin has no name. Name a file.", param_hint="'--out'"
            )
        target = out / name
    if target != STREAM and not force:
        refuse_to_overwrite([target])
    return target


def parse_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Return the formats of the results, each once.

    Raises:
        typer.BadParameter: A format is unknown.
    """
    for name in names:
        if name not in OUTPUT_FORMATS:
            fault = f"{name!r} is not a format of results; use {', '.join(OUTPUT_FORMATS)}"
            raise typer.BadParameter(fault, param_hint="'--format'")
    return tuple(dict.fromkeys(names))


def choose_output(named: str | None, out: Path) -> str:
    """Return the format of a result: *named*, or that of the file *out*, or else WebP.

    Raises:
        typer.BadParameter: The format is unknown, or *out* has the suffix of another one.
    """
    from imageprocessor.cli.files import STREAM

    (output,) = parse_formats([named or DEFAULT_OUTPUT])
    if out == STREAM or out.is_dir():
        return output
    found = find_output(out.name)
    if found is None:
        suffixes = [each.suffix for each in OUTPUT_FORMATS.values()]
        raise typer.BadParameter(
            f"{out}: the suffix names no format of results. Use {', '.join(suffixes)}.",
            param_hint="'--out'",
        )
    if named and found is not OUTPUT_FORMATS[named]:
        raise typer.BadParameter(
            f"{out} does not have the suffix {OUTPUT_FORMATS[named].suffix}.", param_hint="'--out'"
        )
    return found.name.lower()


def parse_watermarks(watermarks: Sequence[str]) -> dict[str, Path]:
    """Return the images of *watermarks*, each ``NAME=FILE``, by name.

    Raises:
        typer.BadParameter: A watermark has another form, or its file does not exist.
    """
    files = {}
    for watermark in watermarks:
        name, _, file = watermark.partition("=")
        if not name or not Path(file).is_file():
            fault = f"{watermark!r} is not NAME=FILE with a file that exists, as logo=logo.png"
            raise typer.BadParameter(fault, param_hint="'--watermark'")
        files[name] = Path(file)
    return files


def parse_quality(text: str | None) -> Any:
    """Return a quality as a size has it; None if *text* is None.

    Raises:
        typer.BadParameter: It is neither from 1 to 100 nor "auto".
    """
    from imageprocessor.core.transformations.values import whole_or

    if text is None:
        return None
    kind = whole_or("auto", 1, 100)
    try:
        return kind.check(kind.read(text))
    except ValueError:
        fault = f"{text!r} is not {kind.text_form}"
        raise typer.BadParameter(fault, param_hint="'--quality'") from None


def parse_sizes(sizes: Sequence[str]) -> list[VariantSpec]:
    """Return the variants of *sizes*, each ``NAME=WIDTH``, or the default ones if there are none.

    Raises:
        typer.BadParameter: A size has another form, an invalid name or width, or a repeated name.
    """
    from imageprocessor.core.variants import DEFAULT_VARIANTS, VariantSpec

    if not sizes:
        return list(DEFAULT_VARIANTS)
    variants: dict[str, VariantSpec] = {}
    for size in sizes:
        name, _, width = size.partition("=")
        if not width.isdecimal():
            fault = f"{size!r} is not NAME=WIDTH, such as card=400"
            raise typer.BadParameter(fault, param_hint="'--size'")
        if name in variants:
            raise typer.BadParameter(f"two sizes are named {name!r}", param_hint="'--size'")
        try:
            variants[name] = VariantSpec(name, width=int(width))
        except InvalidVariantError as error:
            raise typer.BadParameter(str(error), param_hint="'--size'") from None
    return list(variants.values())


def set_options(sizes: Sequence[VariantSpec], options: Mapping[str, Any]) -> list[VariantSpec]:
    """Return *sizes* with the same *options* for all of them.

    Raises:
        typer.BadParameter: Two options contradict each other.
    """
    try:
        return [replace(spec, **options) for spec in sizes]
    except InvalidVariantError as error:
        raise typer.BadParameter(str(error)) from None


def make_plan(
    files: Sequence[Path], names: Mapping[str, str], out: Path, *, force: bool, as_json: bool
) -> Plan:
    """Return the images that *files* name, each with the paths of its results; say what is skipped.

    *names* has the format of each result by its name.

    Raises:
        typer.BadParameter: There is no image, a result cannot go to *out*, or it exists already.
    """
    from imageprocessor.cli.files import STREAM, find_sources, plan_outputs, refuse_to_overwrite

    sources, skipped = find_sources(files, out)
    searched = ", ".join(map(str, files))
    if skipped and not sources:
        raise typer.BadParameter(
            f"all images in {searched} are in {out}, the folder for the results, and are skipped. "
            "Choose another folder.",
            param_hint="'--out'",
        )
    if skipped:
        print_note(f"Skipped {len(skipped)} image(s) in {out}, the folder for the results.")
    if not sources:
        *others, last = list_suffixes()
        raise typer.BadParameter(
            f"no {', '.join(others)} or {last} in {searched}", param_hint="'FILES'"
        )
    if out == STREAM:
        if as_json:
            refuse_json_on_stdout()
        if (len(sources), len(names)) != (1, 1):
            raise typer.BadParameter(
                f"stdout takes one file, not {len(sources)} images in {len(names)} sizes or "
                "formats. Choose a folder, or name one --size.",
                param_hint="'--out'",
            )
        return {sources[0]: dict.fromkeys(names, STREAM)}
    plan = plan_outputs(sources, names, out)
    if not force:
        for paths in plan.values():
            refuse_to_overwrite(paths.values())
    return plan


def refuse_json_on_stdout() -> NoReturn:
    """Raise ``typer.BadParameter``: the image itself goes to stdout."""
    raise typer.BadParameter("--json and the image cannot both go to stdout", param_hint="'--out'")


def show_outcomes(outcomes: Iterable[Outcome], total: int, out: Path, *, as_json: bool) -> bool:
    """Print each outcome as JSON, or all in a table at the end; return whether any failed.

    If the image itself went to stdout, print its outcome on stderr.
    """
    from imageprocessor.cli.batch import progress_bar
    from imageprocessor.cli.files import STREAM

    done = []
    with progress_bar(total) as advance:
        for outcome in outcomes:
            done.append(outcome)
            advance()
            if as_json:
                print_json(outcome.to_json(), lines=True)
    done.sort(key=lambda outcome: outcome.path)
    if out == STREAM:
        for outcome in done:
            _note_outcome(outcome)
    elif not as_json:
        columns = ("file", "source", "results", "colour", "removed", "notes")
        whole = ("source", "results", "colour")
        print_table(columns, map(_outcome_row, done), whole=whole, optional=("colour",))
    return any(outcome.error for outcome in done)


def _note_outcome(outcome: Outcome) -> None:
    """Print what became of an image that went to stdout."""
    if outcome.error:
        print_error(f"{outcome.path}: {outcome.to_json()['error']}")
        return
    source, results, removed = _describe(outcome.report)
    print_note(f"{outcome.path}: {', '.join(source)} → {', '.join(results)}; removed {removed}")


def _outcome_row(outcome: Outcome) -> tuple[object, ...]:
    if outcome.error:
        return outcome.path, "", "", "", "", show_failure(outcome.to_json()["error"])
    source, results, removed = _describe(outcome.report)
    color = show_color(outcome.report["dominant_color"])
    notes = ", ".join(outcome.report["warnings"])
    return outcome.path, source, results, color, removed, notes


def _describe(report: Mapping[str, Any]) -> tuple[list[str], list[str], str]:
    """Return facts about the source and about each result, and the metadata that was removed."""
    source = [f"{report['width']}×{report['height']}", show_bytes(report["size_bytes"])]
    results = []
    for name, variant in report["variants"].items():
        results.append(f"{name} {show_bytes(variant['size_bytes'])}")
        for alternate in variant.get("alternates", ()):
            size = show_bytes(alternate["size_bytes"])
            results.append(f"{name}.{alternate['format']} {size}")
    removed = ", ".join(report["removed"]) or "nothing"
    return source, results, removed
