"""How often a crop with the gravity "auto" keeps the subject, beside sharp's "attention".

`python -m benchmarks.subjects FOLDER` prints a table. FOLDER has the images that subjects.csv
lists, each at SOURCE/PATH, where the source is a checkout of the repository or an unpacked package
of that name; images that are not there are left out. SHARP_DIR is a folder with
node_modules/sharp.

The marks are drawn by hand, in percent of width and height: the face of a person who is near,
otherwise all of what the image is about. *Tuned* images served to find the weights in
core/transformations/attention.py, *checked* ones are from the same sources, *people* from others.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.peers import find_obstacle, node
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations.attention import find_subject

TABLE = Path(__file__).with_name("subjects.csv")
CROPS = ("half the width", "half the height", "square")
MAX_SIDE = 1000

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A subject in an image; *box* is left, top, right and bottom in percent."""

    use: str
    source: str
    path: str
    box: Box


def read_marks() -> list[Mark]:
    """Return all rows of the table."""
    marks = []
    with TABLE.open(encoding="utf-8", newline="") as file:
        for use, source, path, *sides in list(csv.reader(file))[1:]:
            left, top, right, bottom = map(float, sides)
            marks.append(Mark(use, source, path, (left, top, right, bottom)))
    return marks


def open_image(path: Path) -> Image.Image:
    """Return the upright image, at most 1000 px wide and high."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image


def list_crops(image: Image.Image, mark: Mark) -> Iterator[tuple[str, Dimensions]]:
    """Yield the name and the size of each crop that has room for the subject."""
    width, height = image.size
    side = min(width, height)
    sizes = [(width // 2, height), (width, height // 2), (side, side)]
    left, top, right, bottom = mark.box
    subject = ((right - left) * width / 100, (bottom - top) * height / 100)
    for name, size in zip(CROPS, sizes, strict=True):
        axis = 0 if size[0] < width else 1
        is_cropped = size[axis] * 1.15 <= image.size[axis]
        if is_cropped and subject[axis] <= 0.95 * size[axis]:
            yield name, Dimensions(*size)


def crop_with_auto(image: Image.Image, size: Dimensions) -> tuple[int, int]:
    """Return left and top of our crop."""
    return find_subject(image, (0, 0, *image.size), Dimensions(*image.size), size)


def is_kept(image: Image.Image, mark: Mark, place: tuple[int, int], size: Dimensions) -> bool:
    """Return whether at least 90 % of the subject's box is in the crop."""
    left, top, right, bottom = mark.box
    x_scale, y_scale = image.width / 100, image.height / 100
    width = min(right * x_scale, place[0] + size.width) - max(left * x_scale, place[0])
    height = min(bottom * y_scale, place[1] + size.height) - max(top * y_scale, place[1])
    area = (right - left) * x_scale * (bottom - top) * y_scale
    return max(width, 0) * max(height, 0) >= 0.9 * area


def main(folder: Path) -> None:
    """Print how many crops keep the subject, for each use and each crop."""
    command = node("sharp_attention.mjs")
    obstacle = find_obstacle(command)
    if obstacle:
        sys.exit(f"cannot compare: {obstacle}")
    counts: dict[tuple[str, str], list[int]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for mark in read_marks():
            path = folder / mark.source / mark.path
            if not path.exists():
                continue
            image = open_image(path)
            copy = Path(temporary, "image.png")
            image.save(copy)
            crops = list(list_crops(image, mark))
            wanted = json.dumps([[str(copy), *size] for _, size in crops])
            answer = subprocess.run([*command, wanted], check=True, capture_output=True)
            for (name, size), theirs in zip(crops, json.loads(answer.stdout), strict=True):
                middle = (image.width - size.width) // 2, (image.height - size.height) // 2
                places = (crop_with_auto(image, size), tuple(theirs), middle)
                kept = [is_kept(image, mark, place, size) for place in places]
                for key in ((mark.use, name), (mark.use, "all"), ("all", "all")):
                    count = counts.setdefault(key, [0, 0, 0, 0])
                    for index, value in enumerate([*kept, True]):
                        count[index] += value
    rows = ["| images | crop | auto | attention | middle | of |", "|---|---|---|---|---|---|"]
    for (use, name), count in sorted(counts.items()):
        rows.append(f"| {use} | {name} | {' | '.join(map(str, count))} |")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
