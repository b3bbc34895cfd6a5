"""Which pictures are meant, what their results are called.

And how a result gets there whole or not at all.
"""

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
    """A picture to process, and the folder of its results, relative to that of all results."""

    path: Path
    folder: Path = Path()

    def outputs(self, stem: str, sizes: Sequence[str], out: Path) -> dict[str, Path]:
        """Return the path of each size."""
        folder, suffix = out / self.folder, OUTPUT_FORMAT.suffix
        return {size: folder / f"{stem}_{size}{suffix}" for size in sizes}


Plan = Mapping[Source, Mapping[str, Path]]


def find_sources(named: Sequence[Path], out: Path) -> list[Source]:
    """Return the files *named*, whatever they are called, and the images in the folders *named*.

    Each once.

    What is below *out* is left out of folders: it is results, and would be processed again.
    """
    found: dict[str, Source] = {}
    for path in named:
        for source in _walk(path, out) if path.is_dir() else [Source(path)]:
            found.setdefault(os.path.abspath(source.path), source)  # noqa: PTH100 - resolve() would merge links
    return list(found.values())


def plan_outputs(sources: Sequence[Source], sizes: Sequence[str], out: Path) -> Plan:
    """Name the results of each source.

    ``{stem}_{size}.webp``, or with the full file name where two would collide.

    Raises:
        typer.BadParameter: Two sources would still write one file, or one would overwrite a source.
    """
    plan = {source: source.outputs(source.path.stem, sizes, out) for source in sources}
    takers = Counter(path for paths in plan.values() for path in paths.values())
    for source, paths in plan.items():
        if any(takers[path] > 1 for path in paths.values()):
            plan[source] = source.outputs(source.path.name, sizes, out)
    _refuse_overwriting(plan)
    return plan


def write_file(path: Path, data: bytes) -> None:
    """Write *data* at *path*, whole or not at all; a file that was there keeps its mode."""
    # A link is followed, not replaced. A result can be made again: no need to wait for the disk.
    replace_file(path.resolve(), data, durable=False)


def _walk(folder: Path, out: Path) -> Iterator[Source]:
    results = out.resolve()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        if Path(parent).resolve().is_relative_to(results):
            folders.clear()
            continue
        for name in sorted(names):
            if name.lower().endswith(list_suffixes()):
                yield Source(Path(parent, name), Path(parent).relative_to(folder))


def _refuse_overwriting(plan: Plan) -> None:
    taken = {source.path.resolve(): source for source in plan}
    for source, paths in plan.items():
        for path in map(Path.resolve, paths.values()):
            if path in taken:
                raise typer.BadParameter(
                    f"{taken[path].path} and {source.path} both lay claim to {path}: choose another folder, "
                    "or process them one by one.",
                    param_hint="'--out'",
                )
            taken[path] = source
