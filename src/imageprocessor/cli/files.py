"""Finding the images to process, naming the results and writing files atomically."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from imageprocessor.core.formats.registry import OUTPUT_FORMAT, list_suffixes
from imageprocessor.storage.files import replace_file


@dataclass(frozen=True, slots=True)
class Source:
    """An image to process, and the subfolder of ``--out`` for its results."""

    path: Path
    folder: Path = Path()

    def outputs(self, stem: str, sizes: Sequence[str], out: Path) -> dict[str, Path]:
        """Return the result path of each size."""
        folder = out / self.folder
        suffix = OUTPUT_FORMAT.suffix
        return {size: folder / f"{stem}_{size}{suffix}" for size in sizes}


Plan = Mapping[Source, Mapping[str, Path]]


def find_sources(named: Sequence[Path], out: Path) -> list[Source]:
    """Return the *named* files and the images in the *named* folders, each once.

    A named file may have any name; in folders, only files with an image suffix count. Files below
    *out* are skipped, because results must not be processed again.
    """
    found: dict[str, Source] = {}
    for path in named:
        sources = _walk(path, out) if path.is_dir() else [Source(path)]
        for source in sources:
            absolute = os.path.abspath(source.path)  # noqa: PTH100 - resolve() follows links
            found.setdefault(absolute, source)
    return list(found.values())


def plan_outputs(sources: Sequence[Source], sizes: Sequence[str], out: Path) -> Plan:
    """Return the result paths of each source.

    Results are named ``{stem}_{size}.webp``. Where two sources would collide, the full file name
    replaces the stem.

    Raises:
        typer.BadParameter: Two sources would still write the same file, or a result would overwrite
            a source.
    """
    plan = {source: source.outputs(source.path.stem, sizes, out) for source in sources}
    uses: Counter[Path] = Counter()
    for paths in plan.values():
        uses.update(paths.values())
    for source, paths in plan.items():
        if any(uses[path] > 1 for path in paths.values()):
            plan[source] = source.outputs(source.path.name, sizes, out)
    _refuse_overwriting(plan)
    return plan


def write_file(path: Path, data: bytes) -> None:
    """Write *data* to *path* atomically; an existing file keeps its mode."""
    # A symbolic link is followed, not replaced. Results can be recomputed: no need for an fsync.
    replace_file(path.resolve(), data, durable=False)


def _walk(folder: Path, out: Path) -> Iterator[Source]:
    """Yield the images below *folder*, sorted by name, except those below *out*."""
    results = out.resolve()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        if Path(parent).resolve().is_relative_to(results):
            folders.clear()
            continue
        for name in sorted(names):
            if name.lower().endswith(list_suffixes()):
                below = Path(parent).relative_to(folder)
                yield Source(Path(parent, name), below)


def _refuse_overwriting(plan: Plan) -> None:
    """Raise ``typer.BadParameter`` if a result would overwrite a source or another result."""
    claims = {source.path.resolve(): source for source in plan}
    for source, paths in plan.items():
        for path in paths.values():
            target = path.resolve()
            if target in claims:
                raise typer.BadParameter(
                    f"{claims[target].path} and {source.path} would use the same file, {target}. "
                    "Choose another folder, or process them separately.",
                    param_hint="'--out'",
                )
            claims[target] = source
