"""Compare builds of Pillow: `python -m benchmarks.engines PYTHON OTHER…`.

Each argument is an interpreter that has imageprocessor and one build of Pillow installed. A build
includes its codecs, so they have rows of their own, apart from resizing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from benchmarks.figures import compare, interleave
from benchmarks.photo import encode_photo
from imageprocessor import process
from imageprocessor.core.codecs import list_libraries

Run = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Measure the interpreters in alternation; print their figures and ratios to the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=main.__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument(
        "--image", type=Path, help="a JPEG (default: a generated one of 12 megapixels)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each runs (default: 7)")
    options = parser.parse_args(arguments)
    data = options.image.read_bytes() if options.image else encode_photo()
    runs = interleave(
        {python: partial(measure_in, python, data) for python in options.pythons}, options.rounds
    )
    print(format_table([runs[python] for python in options.pythons]))


def measure_in(python: str, data: bytes) -> Run:
    """Run `measure` on *data* in the interpreter *python*; return the figures and its libraries."""
    command = [python, "-c", "from benchmarks.engines import print_run; print_run()"]
    ran = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(ran.stdout))


def print_run() -> None:
    print(json.dumps({"figures": measure(sys.stdin.buffer.read()), "libraries": list_libraries()}))


def measure(data: bytes) -> dict[str, float]:
    """Return the figures of one interpreter; each name includes the unit."""
    figures: dict[str, float] = {}
    result, cpu, wall = clocked(partial(process, data))
    figures |= {"job of four sizes, CPU s": cpu, "the same, wall s": wall}
    figures["its peak memory, MB"] = peak_bytes() / 1e6
    figures["its output, kB"] = (
        sum(variant.size_bytes for variant in result.variants.values()) / 1000
    )
    photo, figures["JPEG decoded, CPU s"], _ = clocked(partial(decode, data))
    _, figures["resized to 1200, 600, 150 px, CPU s"], _ = clocked(partial(resize_in_steps, photo))
    _, figures["WebP encoded in full size, CPU s"], _ = clocked(partial(encode, photo))
    return figures


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Run *work* twice; return the second run's result, CPU seconds and wall seconds."""
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def peak_bytes() -> int:
    """Return the peak memory of this process.

    Not from getrusage, which would include the parent's memory from before it started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def decode(data: bytes) -> Image.Image:
    photo = Image.open(BytesIO(data))
    photo.load()
    return photo


def resize_in_steps(photo: Image.Image) -> None:
    for width in (1200, 600, 150):
        height = round(photo.height * width / photo.width)
        photo = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=1.5)


def encode(photo: Image.Image) -> None:
    photo.save(BytesIO(), "WEBP", quality=85, method=2)


def format_table(engines: list[list[Run]]) -> str:
    columns = ["work"]
    for runs in engines:
        versions = runs[0]["libraries"].items()
        columns.append(", ".join(f"{name} {version}" for name, version in versions))
    lines = [columns, ["---"] * len(columns)]
    works = engines[0][0]["figures"]
    lines += [[work, *format_row(work, engines)] for work in works]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_row(work: str, engines: list[list[Run]]) -> Iterator[str]:
    theirs, *others = ([run["figures"][work] for run in runs] for runs in engines)
    yield f"{median(theirs):.3g}"
    for ours in others:
        row = compare(work, "", ours, "", theirs)
        yield f"{row.ours:.3g}: {row.ratio:.2f} × ({row.lowest:.2f} to {row.highest:.2f})"


if __name__ == "__main__":
    main(sys.argv[1:])
