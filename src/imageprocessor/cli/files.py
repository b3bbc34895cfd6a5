"""Finding the images to process, naming the results, and reading and writing files or streams."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import typer

from imageprocessor.core.formats.registry import OUTPUT_FORMATS, list_suffixes
from imageprocessor.core.source import is_special_file
from imageprocessor.storage.files import BLOCK_BYTES, replace_file

STREAM = Path("-")  #: stdin where a file is read, stdout where one is written
APPLE_DOUBLE = "._"  #: begins the names of files in which macOS keeps other files' attributes


@dataclass(frozen=True, slots=True)
class Source:
    """An image to process, and the subfolder of ``--out`` for its results."""

    path: Path
    folder: Path = Path()

    @property
    def stem(self) -> str:
        """The beginning of the names of its results."""
        return "stdin" if self.path == STREAM else self.path.stem

    def outputs(self, stem: str, names: Mapping[str, str], out: Path) -> dict[str, Path]:
        """Return the path of each result; *names* has the format of each."""
        folder = out / self.folder
        paths = {}
        for name, output in names.items():
            size, _, _ = name.partition(".")
            paths[name] = folder / f"{stem}_{size}{OUTPUT_FORMATS[output].suffix}"
        return paths


Plan = Mapping[Source, Mapping[str, Path]]


class Found(NamedTuple):
    """The images to process, and those that are skipped because they are below ``--out``."""

    sources: list[Source]
    skipped: list[Source]


def find_sources(named: Sequence[Path], out: Path) -> Found:
    """Return the *named* files and the images in the *named* folders, each once.

    A named file may have any name; in folders, only regular files with an image suffix count, and
    no AppleDouble files. A folder that cannot be read counts as an image, which then fails. Images
    below *out* that are not named are results, which must not be processed again.
    """
    found: dict[str, Source] = {}
    results: dict[str, Source] = {}
    results_folder = _resolve(out)
    for path in named:
        if not os.path.isdir(path):  # noqa: PTH112 - is_dir() raises where it may not look
            found.setdefault(_absolute(path), Source(path))
            continue
        for source in _walk(path):
            is_result = _resolve(source.path.parent).is_relative_to(results_folder)
            kind = results if is_result else found
            kind.setdefault(_absolute(source.path), source)
    skipped = [source for path, source in results.items() if path not in found]
    return Found(list(found.values()), skipped)


def plan_outputs(sources: Sequence[Source], names: Mapping[str, str], out: Path) -> Plan:
    """Return the result paths of each source; *names* has the format of each result by its name.

    Files are named ``{stem}_{size}.webp``. Where two sources would collide, the full file name
    replaces the stem.

    Raises:
        typer.BadParameter: Two sources would still write the same file, or a result would overwrite
            a source.
    """
    plan = {source: source.outputs(source.stem, names, out) for source in sources}
    uses: Counter[Path] = Counter()
    for paths in plan.values():
        uses.update(paths.values())
    for source, paths in plan.items():
        if any(uses[path] > 1 for path in paths.values()):
            plan[source] = source.outputs(source.path.name, names, out)
    _refuse_shared_files(plan)
    return plan


def refuse_to_overwrite(paths: Iterable[Path]) -> None:
    """Raise ``typer.BadParameter`` if one of *paths* is a file that exists."""
    for path in paths:
        if os.path.isfile(path):  # noqa: PTH113 - is_file() raises where it may not look
            raise typer.BadParameter(
                f"{path} exists. Choose another place, or add --force.", param_hint="'--out'"
            )


def open_input(path: Path, max_bytes: int = sys.maxsize) -> tuple[Path | bytes, int]:
    """Return what to read the image from (*path*, or all of stdin for ``-``) and its size in bytes.

    Stop reading stdin at a size above *max_bytes*.
    """
    if path != STREAM:
        return path, path.stat().st_size
    if sys.stdin is None:
        raise OSError(errno.EBADF, "Standard input is closed")
    data = bytearray()
    while len(data) <= max_bytes and (block := sys.stdin.buffer.read(BLOCK_BYTES)):
        data += block
    return bytes(data), len(data)


def write_file(path: Path, data: bytes) -> None:
    """Write *data* to *path* atomically, or to stdout for ``-``; an existing file keeps its mode.

    Raises:
        OSError: *path* is a pipe, a device or a socket, or cannot be written.
    """
    if path == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if is_special_file(path):
        raise OSError(errno.EINVAL, "Not a regular file; - is standard output", str(path))
    # A symbolic link is followed, not replaced. Results can be recomputed: no need for an fsync.
    replace_file(_resolve(path), data, durable=False)


def _walk(folder: Path) -> Iterator[Source]:
    """Yield the images below *folder*, sorted by name, then the folders that cannot be read."""
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        below = Path(parent).relative_to(folder)
        for name in sorted(names):
            path = Path(parent, name)
            is_image = name.lower().endswith(list_suffixes()) and not name.startswith(APPLE_DOUBLE)
            if is_image and not is_special_file(path):
                yield Source(path, below)
    for error in unreadable:
        yield Source(Path(error.filename))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() follows links


def _resolve(path: Path) -> Path:
    """Return *path* without symbolic links; unlike resolve(), also if they form a loop."""
    return Path(os.path.realpath(path))


def _refuse_shared_files(plan: Plan) -> None:
    """Raise ``typer.BadParameter`` if a result would overwrite a source or another result."""
    claims = {_resolve(source.path): source for source in plan}
    for source, paths in plan.items():
        for path in paths.values():
            target = _resolve(path)
            if target in claims:
                raise typer.BadParameter(
                    f"{claims[target].path} and {source.path} would use the same file, {target}. "
                    "Choose another folder, or process them separately.",
                    param_hint="'--out'",
                )
            claims[target] = source
