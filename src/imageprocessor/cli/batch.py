"""Processing many images in threads; an image that fails does not stop the others."""

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

from imageprocessor.cli.files import STREAM, Plan, Source, open_input, write_file
from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import ProcessedImage, process
from imageprocessor.core.variants import VariantSpec, name_alternate
from imageprocessor.errors import ImageProcessorError, MemoryLimitError

TASKS_PER_THREAD = 2  # one runs, one waits

Processed = tuple[ProcessedImage, int]  #: the result, and the size of its source in bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one image: a JSON-ready *report*, or an *error*."""

    path: Path
    report: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line that ``--json`` prints."""
        file = str(self.path)
        if self.error is None:
            return {"file": file, **self.report}
        return {"file": file, **report_error(self.error)}


def process_each(
    plan: Plan, variants: Sequence[VariantSpec], limits: Limits, threads: int
) -> Iterator[Outcome]:
    """Process the images of *plan*, write the results and yield each outcome when it is ready.

    The threads only compute. The calling thread writes, so that an interrupt never leaves another
    thread in the middle of a file.
    """
    waiting = iter(plan.items())
    running: dict[Future[Processed], tuple[Source, Mapping[str, Path]]] = {}
    most_running = threads * TASKS_PER_THREAD
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            free = most_running - len(running)
            for source, paths in islice(waiting, free):
                future = pool.submit(_process, source.path, variants, limits)
                running[future] = source, paths
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                source, paths = running.pop(future)
                yield _finish(future, source, paths)
    finally:  # after an interrupt, do not wait for the images that are being processed
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar if stderr is a terminal; yield the function that advances it."""
    console = Console(stderr=True)
    columns = TextColumn("processing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        task = progress.add_task("files", total=total)
        yield lambda: progress.advance(task)


def report_error(error: Exception) -> dict[str, str]:
    """Return ``error`` (why the image failed, in a sentence) and ``error_code``."""
    message, code = str(error), "file_error"
    if isinstance(error, ImageProcessorError):
        code = error.code
    elif isinstance(error, MemoryError):
        message = "There is not enough memory to process this image. Lower --jobs."
        code = MemoryLimitError.code
    elif isinstance(error, OSError) and error.strerror:
        message = error.strerror
    return {"error": message, "error_code": code}


def end_now(status: int) -> NoReturn:
    """End the process without waiting for its threads: they cannot be interrupted or write."""
    os._exit(status)


def _process(path: Path, variants: Sequence[VariantSpec], limits: Limits) -> Processed:
    data, size_bytes = open_input(path, limits.max_bytes)
    return process(data, variants, limits), size_bytes


def _finish(future: Future[Processed], source: Source, paths: Mapping[str, Path]) -> Outcome:
    """Write the results of an image and return its outcome."""
    try:
        image, size_bytes = future.result()
        # An animation is a WebP, whatever the formats of its size are.
        written = {}
        for name, file in image.files.items():
            path = paths[name]
            if path != STREAM:
                path = path.with_suffix(OUTPUT_FORMATS[file.format].suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, file.data)
            written[name] = path
    except (ImageProcessorError, OSError, MemoryError) as error:
        return Outcome(source.path, error=error)
    facts = image.describe()
    dimensions = facts.pop("original_dimensions")
    described = facts.pop("variants")
    variants = {}
    for name, variant in described.items():
        variants[name] = {"path": str(written[name]), **variant}
        for alternate in variant.get("alternates", ()):
            alternate["path"] = str(written[name_alternate(name, alternate["format"])])
    report = {**dimensions, "size_bytes": size_bytes, "variants": variants, **facts}
    return Outcome(source.path, report)
