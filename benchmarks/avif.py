"""A photo becomes an AVIF 1200 px wide; compared with sharp's at equal SSIM.

`python -m benchmarks.avif PHOTO…` compares your own photos: the drawn one has more grain, which our
encoder keeps at the cost of bytes.
"""

from __future__ import annotations

import subprocess
import sys
from bisect import bisect_left
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.effort import compare_luma
from benchmarks.figures import Figure, Skipped
from benchmarks.peers import find_obstacle, node, python
from benchmarks.photo import encode_photo
from benchmarks.pipeline import AVIF_WORK, OURS, SHARP, run_contest
from benchmarks.report import format_table
from imageprocessor import transform

QUALITIES = range(30, 96)
ROUND_FACTOR = 2


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the rows for the 12-megapixel photo that all benchmarks use."""
    obstacle = find_obstacle(node("sharp_avif.mjs"))
    if obstacle:
        return [Skipped(AVIF_WORK, SHARP, obstacle)]
    with TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        photo.write_bytes(encode_photo())
        return compare_photo(photo, ROUND_FACTOR * rounds)


def main(paths: Sequence[str]) -> None:
    """Print how we compare with sharp on each photo, in 3 rounds."""
    for path in paths:
        rows = compare_photo(Path(path), 3)
        sys.stdout.write(f"{path}\n{format_table(row.to_json() for row in rows)}\n")


def compare_photo(photo: Path, rounds: int) -> list[Figure | Skipped]:
    """Return the rows for an AVIF of our lowest quality that is as much like its source."""
    sharp = node("sharp_avif.mjs", str(photo))
    with TemporaryDirectory() as folder:
        subprocess.run([*sharp, folder], check=True)
        theirs = compare_files(Path(folder, "lossless.png"), Path(folder, "lossy.avif"))
    quality = find_quality(photo, theirs)
    ours = python("avif.py", str(photo), str(quality))
    return run_contest(AVIF_WORK, OURS, {OURS: ours, SHARP: sharp}, rounds)


def find_quality(photo: Path, wanted: float) -> int:
    """Return our lowest quality that gives the *wanted* SSIM."""
    resized = Image.open(BytesIO(transform(photo, "w_1200", format="png").data))

    def likeness(quality: int) -> float:
        made = transform(photo, f"w_1200,q_{quality}", format="avif")
        return compare_luma(resized, Image.open(BytesIO(made.data)))

    return QUALITIES[bisect_left(QUALITIES, wanted, key=likeness)]


def compare_files(lossless: Path, lossy: Path) -> float:
    """Return the SSIM of two files. Each contender is compared with its own resized image."""
    with Image.open(lossless) as source, Image.open(lossy) as made:
        return compare_luma(source, made)


if __name__ == "__main__":
    main(sys.argv[1:])
