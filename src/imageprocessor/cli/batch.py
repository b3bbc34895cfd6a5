"""Many pictures at once.

Each in a thread, since Pillow lets others run, and each at its own risk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imageprocessor.cli.files import Plan, Source, write_file
from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import ProcessedImage, process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import ImageProcessorError

WAITING_PER_THREAD = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture: *report*, ready for JSON, or the *error* that it met."""

    path: Path
    report: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line that ``--json`` prints."""
        if self.error is None:
            return {"file": str(self.path), **self.report}
        return {
            "file": str(self.path),
            "error": describe_error(self.error),
            "error_code": error_code(self.error),
        }


def process_each(
    plan: Plan, variants: Sequence[VariantSpec], limits: Limits, threads: int
) -> Iterator[Outcome]:
    """Process the pictures of *plan* and write their results.

    Yield the outcome of each as it is done.

    The threads only compute. This one writes, so that an interruption finds no other in the middle
    of a file.
    """
    waiting = iter(plan.items())
    running: dict[Future[ProcessedImage], tuple[Source, Mapping[str, Path]]] = {}
    with ThreadPoolExecutor(threads) as pool:
        while True:
            for source, paths in islice(waiting, threads * WAITING_PER_THREAD - len(running)):
                running[pool.submit(process, source.path, variants, limits)] = source, paths
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield _finish(future, *running.pop(future))


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """Draw a bar of *total* files on stderr if that is a terminal.

    Yield what moves it on by one.
    """
    console = Console(stderr=True)
    columns = TextColumn("processing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("files", total=total)
        yield lambda: progress.advance(task)


def describe_error(error: Exception) -> str:
    """Return one sentence on why a picture failed."""
    if isinstance(error, MemoryError):
        return "There is not enough memory for this picture: lower --jobs."
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def error_code(error: Exception) -> str:
    """Return the stable code of an error.

    What the system reports has ``file_error``, or ``memory_exceeded``.
    """
    if isinstance(error, ImageProcessorError):
        return error.code
    return "memory_exceeded" if isinstance(error, MemoryError) else "file_error"


def end_now(status: int) -> NoReturn:
    """End the process without waiting for its threads.

    None can be interrupted, and none writes a file.
    """
    os._exit(status)


def _finish(future: Future[ProcessedImage], source: Source, paths: Mapping[str, Path]) -> Outcome:
    try:
        image = future.result()
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, image.variants[name].data)
        return Outcome(source.path, _report(image, paths, source.path.stat().st_size))
    except (ImageProcessorError, OSError, MemoryError) as error:
        return Outcome(source.path, error=error)


def _report(image: ProcessedImage, paths: Mapping[str, Path], bytes_in: int) -> dict[str, Any]:
    return {
        "width": image.original_dimensions.width,
        "height": image.original_dimensions.height,
        "dominant_color": image.dominant_color,
        "size_bytes": bytes_in,
        "variants": {
            name: {"path": str(paths[name]), **variant.describe()}
            for name, variant in image.variants.items()
        },
        "warnings": list(image.warnings),
        "removed": list(image.removed),
    }
