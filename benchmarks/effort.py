"""What WebP's effort buys: time, and bytes at equal SSIM, of each width that is made by default.

`python -m benchmarks.effort [PHOTO…]` prints the table that `VariantSpec.effort` was chosen from;
without photos it looks at the one that is drawn here.
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
COMPARED_SIDE = 1600  #: SSIM of a larger picture is that of its middle


def main(paths: Sequence[str]) -> None:
    """Print how each effort compares with effort 4 at quality 85.

    Medians of the time, means over the photos.
    """
    photos = [Image.open(path).convert("RGB") for path in paths] or [
        Image.open(BytesIO(encode_photo()))
    ]
    rows = [
        "| width | effort | CPU time | bytes at equal quality | bytes at equal SSIM |",
        "|---|---|---|---|---|",
    ]
    for width in WIDTHS:
        compared = [list(compare_efforts(shrink(photo, width))) for photo in photos]
        for effort, ratios in zip(EFFORTS, zip(*compared, strict=True), strict=True):
            means = [geometric_mean(values) for values in zip(*ratios, strict=True)]
            rows.append(
                f"| {width} | {effort} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"
            )
    sys.stdout.write("\n".join(rows) + "\n")


def shrink(photo: Image.Image, width: int) -> Image.Image:
    """Return *photo* in that width, if it is wider."""
    size = width, round(photo.height * width / photo.width)
    return photo.resize(size, Image.Resampling.LANCZOS) if photo.width > width else photo


def compare_efforts(picture: Image.Image) -> Iterator[tuple[float, float, float]]:
    """Yield for each effort its time, bytes at quality 85, and bytes at the SSIM of effort 4.

    As ratios to effort 4.
    """
    encode(picture, QUALITY, REFERENCE_EFFORT)
    wanted = likeness(picture, encode(picture, QUALITY, REFERENCE_EFFORT))
    measured = [
        (
            median(encode_seconds(picture, effort) for _ in range(ROUNDS)),
            len(encode(picture, QUALITY, effort)),
            bytes_at(picture, effort, wanted),
        )
        for effort in EFFORTS
    ]
    reference = measured[REFERENCE_EFFORT]
    for row in measured:
        yield row[0] / reference[0], row[1] / reference[1], row[2] / reference[2]


def bytes_at(picture: Image.Image, effort: int, wanted: float) -> float:
    """Return the bytes at which *effort* reaches that SSIM.

    Between the qualities that were tried.
    """
    files = [encode(picture, quality, effort) for quality in QUALITIES]
    return float(
        np.interp(
            wanted, [likeness(picture, file) for file in files], [len(file) for file in files]
        )
    )


def likeness(picture: Image.Image, encoded: bytes) -> float:
    """Return the SSIM of the luma (Wang et al. 2004, windows of 7 × 7 px)."""
    left, top = (max(0, side - COMPARED_SIDE) // 2 for side in picture.size)
    box = (
        left,
        top,
        min(picture.width, left + COMPARED_SIDE),
        min(picture.height, top + COMPARED_SIDE),
    )
    with Image.open(BytesIO(encoded)) as image:
        planes = [np.asarray(each.crop(box).convert("L")) for each in (picture, image)]
    return float(structural_similarity(*planes))  # type: ignore[no-untyped-call]


def encode(picture: Image.Image, quality: int, effort: int) -> bytes:
    """Return *picture* as WebP."""
    file = BytesIO()
    picture.save(file, "WEBP", quality=quality, method=effort)
    return file.getvalue()


def encode_seconds(picture: Image.Image, effort: int) -> float:
    """Return the CPU seconds of one encoding at quality 85."""
    started = time.process_time()
    encode(picture, QUALITY, effort)
    return time.process_time() - started


if __name__ == "__main__":
    main([str(Path(argument)) for argument in sys.argv[1:]])
