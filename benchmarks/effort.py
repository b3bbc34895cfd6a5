"""What WebP's effort costs in time and saves in bytes at equal SSIM, for each default width.

`python -m benchmarks.effort [PHOTO…]` prints the table from which `VariantSpec.effort` was chosen;
without photos it uses the generated one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from benchmarks.photo import encode_photo

WIDTHS = (150, 600, 1200, 4096)
EFFORTS = range(7)
QUALITY, REFERENCE_EFFORT = 85, 4
QUALITIES = (75, 80, 85, 90, 95)
ROUNDS = 3
COMPARED_SIDE = 1600  #: of a larger image, SSIM compares only the middle


def main(paths: Sequence[str]) -> None:
    """Print how each effort compares with effort 4 at quality 85, averaged over the photos."""
    photos = [Image.open(path).convert("RGB") for path in paths]
    if not photos:
        photos = [Image.open(BytesIO(encode_photo()))]
    rows = [
        "| width | effort | CPU time | bytes at equal quality | bytes at equal SSIM |",
        "|---|---|---|---|---|",
    ]
    for width in WIDTHS:
        compared = [list(compare_efforts(shrink(photo, width))) for photo in photos]
        for effort, ratios in zip(EFFORTS, zip(*compared, strict=True), strict=True):
            means = [geometric_mean(values) for values in zip(*ratios, strict=True)]
            cells = [str(width), str(effort), *(f"{mean:.2f}" for mean in means)]
            rows.append(f"| {' | '.join(cells)} |")
    sys.stdout.write("\n".join(rows) + "\n")


def shrink(photo: Image.Image, width: int) -> Image.Image:
    """Return *photo* scaled down to *width*, if it is wider."""
    size = width, round(photo.height * width / photo.width)
    return photo.resize(size, Image.Resampling.LANCZOS) if photo.width > width else photo


def compare_efforts(photo: Image.Image) -> Iterator[tuple[float, float, float]]:
    """Yield each effort's time, bytes at quality 85 and at equal SSIM, relative to effort 4."""
    encode(photo, QUALITY, REFERENCE_EFFORT)
    wanted = similarity(photo, encode(photo, QUALITY, REFERENCE_EFFORT))
    measured = []
    for effort in EFFORTS:
        seconds = median(encode_seconds(photo, effort) for _ in range(ROUNDS))
        size = len(encode(photo, QUALITY, effort))
        measured.append((seconds, size, bytes_at(photo, effort, wanted)))
    reference_seconds, reference_size, reference_bytes = measured[REFERENCE_EFFORT]
    for seconds, size, equal_bytes in measured:
        yield seconds / reference_seconds, size / reference_size, equal_bytes / reference_bytes


def bytes_at(photo: Image.Image, effort: int, wanted: float) -> float:
    """Return the bytes that *effort* needs for the *wanted* SSIM, interpolated over QUALITIES."""
    files = [encode(photo, quality, effort) for quality in QUALITIES]
    similarities = [similarity(photo, file) for file in files]
    return float(np.interp(wanted, similarities, [len(file) for file in files]))


def similarity(photo: Image.Image, encoded: bytes) -> float:
    """Return the SSIM of *photo* and the file."""
    with Image.open(BytesIO(encoded)) as image:
        return compare_luma(photo, image)


def compare_luma(photo: Image.Image, image: Image.Image) -> float:
    """Return the SSIM of the luma of two images (Wang et al. 2004, windows of 7 × 7 px)."""
    left, top = (max(0, side - COMPARED_SIDE) // 2 for side in photo.size)
    right = min(photo.width, left + COMPARED_SIDE)
    bottom = min(photo.height, top + COMPARED_SIDE)
    box = left, top, right, bottom
    planes = [np.asarray(each.crop(box).convert("L")) for each in (photo, image)]
    return float(structural_similarity(*planes))  # type: ignore[no-untyped-call]


def encode(photo: Image.Image, quality: int, effort: int) -> bytes:
    """Return *photo* as WebP."""
    file = BytesIO()
    photo.save(file, "WEBP", quality=quality, method=effort)
    return file.getvalue()


def encode_seconds(photo: Image.Image, effort: int) -> float:
    """Return the CPU seconds of one encoding at quality 85."""
    started = time.process_time()
    encode(photo, QUALITY, effort)
    return time.process_time() - started


if __name__ == "__main__":
    main([str(Path(argument)) for argument in sys.argv[1:]])
