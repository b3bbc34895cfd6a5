"""What the choice of quality costs and saves: bytes, likeness and CPU time.

`python -m benchmarks.quality [IMAGE…]` prints how each way to choose a quality treats JPEG photos
at their full size, and PNG files. Without images, it draws them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

import imageprocessor as ip
from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.graphics import encode_graphics
from benchmarks.photo import add_camera_noise, draw_photo

QUALITIES = (70, 75, 80, 85)
PHOTOS, GRAPHICS, PHOTO_PNG = "JPEG photos, unscaled", "graphics as PNG", "1 MP photo as PNG"
ROUND_FACTOR = 3
#: The options of what is compared; the plain encoder comes first.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "`auto`": {"quality": "auto"},
    "lossless": {"lossless": True},
}


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the rows for photos, for graphics, and for the time that photos lose to graphics."""
    return [*measure_photos(), *measure_graphics(), measure_decision(ROUND_FACTOR * rounds)]


def measure_photos() -> Iterator[Figure]:
    """Yield the bytes of JPEG photos beside the stripped sources, and how alike they look."""
    ours, theirs, alike = [], [], []
    for data in draw_jpegs().values():
        made = make(data)
        ours.append(float(made.size_bytes))
        theirs.append(float(len(ip.strip_metadata(data))))
        alike.append(compare_luma(make(data, lossless=True), made))
    ones = [1.0] * len(alike)
    yield compare(PHOTOS, "bytes", ours, "the stripped source", theirs, at_most=0.7)
    largest = max(our / their for our, their in zip(ours, theirs, strict=True))
    yield compare(f"{PHOTOS}, largest", "", [largest], "the stripped source", [1], at_most=1)
    yield compare(f"{PHOTOS}, SSIM", "", alike, "the source", ones, at_least=0.955)
    yield compare(f"{PHOTOS}, least SSIM", "", [min(alike)], "the source", [1], at_least=0.92)


def measure_graphics() -> Iterator[Figure]:
    """Yield the bytes of graphics beside the smaller of lossless and lossy, and how many are exact.

    Those that should be exact are those whose lossless file is the smaller one.
    """
    ours, smaller, should, exact = 0, 0, 0, 0
    for data in encode_graphics().values():
        made, lossy = make(data), make(data, lossless=False)
        lossless = make(data, lossless=True)
        ours += made.size_bytes
        smaller += min(lossy.size_bytes, lossless.size_bytes)
        if lossless.size_bytes < lossy.size_bytes:
            should += 1
            exact += made.data == lossless.data
    reference = "the smaller of lossless and quality 85"
    yield compare(f"{GRAPHICS}, all", "bytes", [ours], reference, [smaller], at_most=1.03)
    reference = "those of which lossless is smaller"
    yield compare(f"{GRAPHICS}, exact", "files", [exact], reference, [should], at_least=0.98)


def measure_decision(rounds: int) -> Figure:
    """Return the CPU time of a photo in a PNG beside that without the decision for graphics."""
    data = encode(draw_photo(1200, 900), "PNG")
    costs = interleave(
        {"ours": partial(seconds_of, data), "theirs": partial(seconds_of, data, lossless=False)},
        rounds,
    )
    reference = "the same, lossy without a look"
    return compare(PHOTO_PNG, "s of CPU", costs["ours"], reference, costs["theirs"], at_most=1.03)


def main(paths: Sequence[str]) -> None:
    """Print a table for JPEG files and one for other files."""
    files = {path: Path(path).read_bytes() for path in paths} or draw_jpegs() | encode_graphics()
    jpegs = {name: data for name, data in files.items() if ip.validate(data).format == "JPEG"}
    others = {name: data for name, data in files.items() if name not in jpegs}
    for kind, each in (("JPEG", jpegs), ("other", others)):
        if each:
            print(f"{len(each)} {kind} files\n\n{format_ways(each)}\n")


def format_ways(files: Mapping[str, bytes]) -> str:
    """Return a table of what each way makes of the files."""
    lines = [
        "| | bytes to the source: median, most | in all | SSIM: median, least | s of CPU | exact |",
        f"|{' --- |' * 6}",
    ]
    exact = {name: make(data, lossless=True) for name, data in files.items()}
    ways: dict[str, Callable[[bytes], ip.Variant]] = {"always quality 85": make_plain}
    ways |= {way: partial(make, **options) for way, options in WAYS.items()}
    for way, run in ways.items():
        ratios, sizes, likeness, seconds, same = [], [], [], 0.0, 0
        for name, data in files.items():
            started = time.process_time()
            made = run(data)
            seconds += time.process_time() - started
            sizes.append(made.size_bytes)
            ratios.append(made.size_bytes / len(ip.strip_metadata(data)))
            likeness.append(compare_luma(exact[name], made))
            same += made.data == exact[name].data
        lines.append(
            f"| {way} | {median(ratios):.2f}, {max(ratios):.2f} | {sum(sizes):,} "
            f"| {median(likeness):.3f}, {min(likeness):.3f} | {seconds:.2f} | {same} |"
        )
    return "\n".join(lines)


@cache
def draw_jpegs() -> dict[str, bytes]:
    """Return small photos, plain and noisy, at several qualities.

    They are drawn large and scaled down, as photos on web pages are.
    """
    files = {}
    for seed in (1, 2):
        photo = draw_photo(1920, 1440, seed)
        for name, image in (("plain", photo), ("noisy", add_camera_noise(photo, seed))):
            small = image.resize((640, 480), Image.Resampling.LANCZOS)
            for quality in QUALITIES:
                files[f"{name} {seed}, {quality}"] = encode(small, "JPEG", quality=quality)
    return files


def make(data: bytes, **options: Any) -> ip.Variant:
    """Return the image in its own size."""
    return ip.process(data, [ip.VariantSpec("own", **options)], threads=1).variants["own"]


def make_plain(data: bytes) -> ip.Variant:
    """Return the image in its own size as any encoder makes it at quality 85."""
    with Image.open(BytesIO(data)) as image:
        mode = "RGBA" if image.has_transparency_data else "RGB"
        encoded = encode(image.convert(mode), "WEBP", quality=85)
        return ip.Variant(encoded, image.width, image.height)


def seconds_of(data: bytes, **options: Any) -> float:
    """Return the CPU seconds of :func:`make`."""
    started = time.process_time()
    make(data, **options)
    return time.process_time() - started


def compare_luma(first: ip.Variant, second: ip.Variant) -> float:
    """Return the SSIM of two images, gaussian with sigma 1.5; what is transparent is white."""
    planes = []
    for variant in (first, second):
        image = Image.open(BytesIO(variant.data)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        planes.append(np.asarray(Image.alpha_composite(white, image).convert("L")))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if min(planes[0].shape) < 11:  # the window
        return 1.0 - float(np.abs(planes[0].astype(int) - planes[1]).mean()) / 255
    return float(structural_similarity(*planes, **options))  # type: ignore[no-untyped-call]


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return *image* as a file."""
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
