"""How alike our operations and sharp's are: the pixels of both on the same images.

`python -m benchmarks.likeness [IMAGE…]` prints the mean difference of 64 px thumbnails, in levels
of 255, of each operation that both have, and of the frames of animated GIFs that both make WebP.
SHARP_DIR is a folder with node_modules/sharp. Without images, it uses docs/photo.jpg, which is
stored sideways, a drawn photo and a drawn logo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageDraw

import imageprocessor as ip
from benchmarks.peers import find_obstacle, node
from benchmarks.photo import encode_photo

SIDE = 64
ANIMATED = "w_96,anim_keep"
ANIMATED_STEPS = [["resize", {"width": 96}]]
WHITE = {"background": "#ffffff"}
CLEAR = {"background": {"r": 0, "g": 0, "b": 0, "alpha": 0}}
NO_ENLARGEMENT = {"withoutEnlargement": True}
GRAVITIES = {
    "center": "centre",
    "n": "north",
    "ne": "northeast",
    "e": "east",
    "se": "southeast",
    "s": "south",
    "sw": "southwest",
    "w": "west",
    "nw": "northwest",
}


def list_cases() -> dict[str, list[list[object]]]:
    """Return sharp's steps for each of our operations."""
    cases: dict[str, list[list[object]]] = {
        "w_200": [["resize", {"width": 200, **NO_ENLARGEMENT}]],
        "w_200,h_150": [["resize", {"width": 200, "height": 150, "fit": "inside"}]],
        "w_200,h_100,fit_fill": [["resize", {"width": 200, "height": 100, "fit": "fill"}]],
        "w_200,h_100,fit_pad": [
            ["resize", {"width": 200, "height": 100, "fit": "contain", **CLEAR}]
        ],
        "crop_40:60:200:150": [["extract", {"left": 40, "top": 60, "width": 200, "height": 150}]],
        "w_3000,up_1": [["resize", {"width": 3000}]],
        "w_300,rot_90": [["rotate", 90], ["resize", {"width": 300}]],
        "w_300,flip_h": [["flop"], ["resize", {"width": 300}]],
        "w_300,flip_v": [["flip"], ["resize", {"width": 300}]],
        "w_300,blur_1": [["resize", {"width": 300}], ["blur", 1]],
        "w_300,blur_5": [["resize", {"width": 300}], ["blur", 5]],
        "w_300,sharp_50": [["resize", {"width": 300}], ["sharpen", {"sigma": 1, "m1": 1, "m2": 1}]],
        "w_300,gray_1": [["resize", {"width": 300}], ["grayscale"]],
        "w_300,bg_ffffff": [["resize", {"width": 300}], ["flatten", WHITE]],
        "w_300,pad_20,bg_ffffff": [
            ["resize", {"width": 300}],
            ["flatten", WHITE],
            ["extend", {"top": 20, "bottom": 20, "left": 20, "right": 20, **WHITE}],
        ],
    }
    for ours, theirs in GRAVITIES.items():
        for width, height in ((200, 80), (80, 200)):
            resize = {"width": width, "height": height, "fit": "cover", "position": theirs}
            cases[f"w_{width},h_{height},fit_cover,g_{ours}"] = [["resize", resize]]
    return cases


def main(paths: Sequence[str]) -> None:
    """Print the median and the largest difference of each operation."""
    cases = list_cases()
    command = node("sharp_operations.mjs")
    obstacle = find_obstacle(command)
    if obstacle:
        sys.exit(f"cannot compare: {obstacle}")
    differences: dict[str, list[float]] = {operations: [] for operations in cases}
    with tempfile.TemporaryDirectory() as folder:
        differences[ANIMATED] = compare_frames(command, folder)
        for path in paths or draw_images(folder):
            steps = json.dumps(list(cases.values()))
            subprocess.run([*command, path, folder, steps], check=True)
            for number, operations in enumerate(cases):
                ours = ip.transform(path, f"{operations},q_100")
                theirs = Path(folder, f"{number}.png").read_bytes()
                differences[operations].append(compare(ours.data, theirs))
    rows = ["| operations | median | largest |", "|---|---|---|"]
    for operations, values in differences.items():
        rows.append(f"| `{operations}` | {median(values):.2f} | {max(values):.2f} |")
    everything = [value for values in differences.values() for value in values]
    rows.append(f"| all | {median(everything):.2f} | {max(everything):.2f} |")
    sys.stdout.write("\n".join(rows) + "\n")


def draw_images(folder: str) -> list[str]:
    """Write the drawn images to *folder*, and return all paths."""
    photo = Path(folder, "photo.jpg")
    photo.write_bytes(encode_photo(1600, 1200))
    large = Image.new("RGBA", (3600, 2400), (255, 0, 255, 0))
    draw = ImageDraw.Draw(large)
    draw.ellipse((400, 300, 2000, 1900), fill=(20, 110, 200, 255))
    draw.polygon([(1600, 2000), (2600, 400), (3300, 2000)], fill=(240, 160, 0, 200))
    logo = Path(folder, "logo.png")
    large.reduce(4).save(logo)
    return ["docs/photo.jpg", str(photo), str(logo)]


def compare_frames(command: Sequence[str], folder: str) -> list[float]:
    """Return the difference of each frame of animated GIFs, as both make WebP of them."""
    differences = []
    for path in draw_animations(folder):
        steps = json.dumps([ANIMATED_STEPS])
        subprocess.run([*command, path, folder, steps, "animated"], check=True)
        limits = ip.Limits(mime_types=frozenset({"image/gif"}))
        ours = ip.transform(path, f"{ANIMATED},q_100", limits).data
        theirs = Path(folder, "0.webp").read_bytes()
        shown = [read_frames(data) for data in (ours, theirs)]
        assert shown[0].keys() == shown[1].keys(), (path, [frames.keys() for frames in shown])
        for start, frame in shown[0].items():
            differences.append(compare(frame, shown[1][start]))
    return differences


def draw_animations(folder: str) -> list[str]:
    """Write a GIF for each way to dispose of a frame to *folder*, and return their paths."""
    photo = Image.open(BytesIO(encode_photo(320, 240))).convert("RGBA")
    paths = []
    for disposal in (1, 2, 3):
        frames = [photo]
        for index in range(8):
            frame = Image.new("RGBA", photo.size)
            draw = ImageDraw.Draw(frame)
            left = 30 * index
            draw.ellipse((left, 60, left + 90, 150), fill=(20, 110, 200, 255))
            frames.append(frame)
        path = Path(folder, f"disposal{disposal}.gif")
        disposals = [1] + 8 * [disposal]
        delays = [50 + 10 * index for index in range(9)]
        frames[0].save(
            path,
            save_all=True,
            append_images=frames[1:],
            disposal=disposals,
            duration=delays,
            loop=0,
        )
        paths.append(str(path))
    return paths


def read_frames(data: bytes) -> dict[int, bytes]:
    """Return each frame as a PNG, by the time at which it is shown in milliseconds."""
    frames = {}
    start = 0
    with Image.open(BytesIO(data)) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            file = BytesIO()
            image.save(file, "PNG")
            frames[start] = file.getvalue()
            start += image.info["duration"]
    return frames


def compare(ours: bytes, theirs: bytes) -> float:
    """Return the mean difference of thumbnails, on a background that shows their alpha.

    Raises:
        AssertionError: The sizes differ.
    """
    images = [Image.open(BytesIO(data)).convert("RGBA") for data in (ours, theirs)]
    assert images[0].size == images[1].size, (images[0].size, images[1].size)
    thumbnails = []
    for image in images:
        shown = Image.new("RGBA", image.size, (128, 128, 128, 255))
        shown.alpha_composite(image)
        small = shown.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        thumbnails.append(np.asarray(small).astype(int))
    return float(np.abs(thumbnails[0] - thumbnails[1]).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
