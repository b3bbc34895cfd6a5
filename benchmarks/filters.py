"""What the bicubic filter saves and changes in the shrink to the largest size, beside Lanczos.

`python -m benchmarks.filters [PHOTO…]` prints the table from which that filter was chosen. Photos
must be wider than 4096 px; without photos it uses two generated ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from benchmarks.effort import QUALITIES, QUALITY, compare_luma, encode
from benchmarks.figures import interleave
from benchmarks.photo import encode_noisy_photo, encode_photo
from imageprocessor.core.geometry import Dimensions, fit_inside
from imageprocessor.core.resize import resize
from imageprocessor.queue.process_memory import keep_memory

WIDTH, EFFORT = 4096, 2  #: of the largest default size
FILTERS = (Resampling.LANCZOS, Resampling.BICUBIC, Resampling.HAMMING, Resampling.BILINEAR)
ROUNDS = 5
KEPT_MB = 3072
HEAD = "| photo | filter | ms of CPU | bytes at quality 85 | SSIM | bytes at equal SSIM |"


def main(paths: Sequence[str]) -> None:
    """Print a row for each photo and filter; bytes are ratios to Lanczos."""
    keep_memory(KEPT_MB)
    files = {Path(path).name: Path(path).read_bytes() for path in paths}
    if not files:
        files = {"drawn": encode_photo(4608, 3456), "drawn, noisy": encode_noisy_photo()}
    print(f"{HEAD}\n|{' --- |' * 6}")
    for name, data in files.items():
        photo = Image.open(BytesIO(data)).convert("RGB")
        for cells in compare_filters(photo):
            print(f"| {name}, {photo.width} × {photo.height} | {cells} |", flush=True)


def compare_filters(photo: Image.Image) -> Iterator[str]:
    """Yield the cells of each filter, Lanczos first."""
    size = fit_inside(Dimensions(*photo.size), WIDTH)
    runs = {each.name: partial(seconds_of, photo, size, each) for each in FILTERS}
    turns = interleave(runs, ROUNDS)
    chosen = QUALITIES.index(QUALITY)
    exact_bytes, wanted = 0, 0.0
    for resampling in FILTERS:
        resized = resize(photo, size, resampling=resampling)
        files = [encode(resized, quality, EFFORT) for quality in QUALITIES]
        sizes = [len(file) for file in files]
        similarities = [similarity_to_source(photo, file) for file in files]
        if resampling is Resampling.LANCZOS:
            exact_bytes, wanted = sizes[chosen], similarities[chosen]
        milliseconds = median(turns[resampling.name]) * 1000
        equal = np.interp(wanted, similarities, sizes) / exact_bytes
        yield (
            f"{resampling.name.lower()} | {milliseconds:.0f} | {sizes[chosen] / exact_bytes:.3f} "
            f"| {similarities[chosen]:.4f} | {equal:.3f}"
        )


def seconds_of(photo: Image.Image, size: Dimensions, resampling: Resampling) -> float:
    """Return the CPU seconds of one resizing."""
    started = time.process_time()
    resize(photo, size, resampling=resampling)
    return time.process_time() - started


def similarity_to_source(photo: Image.Image, encoded: bytes) -> float:
    """Return the SSIM of *photo* and the file, enlarged to its size: that favours no filter."""
    luma = Image.open(BytesIO(encoded)).convert("L")
    return compare_luma(photo, luma.resize(photo.size, Resampling.LANCZOS))


if __name__ == "__main__":
    main(sys.argv[1:])
