"""Make the pictures of the page "Formats and quality" from what the page says about them.

``python docs/pictures.py`` writes docs/pictures. Each picture is the file that the operations in
front of it make of the image that its alternative text names, so a caption cannot lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFont

import imageprocessor as ip

DOCS = Path(__file__).parent
PAGE = DOCS / "formats-and-quality.md"
FOLDER = DOCS / "pictures"
EXAMPLES = Path(skimage.__file__).with_name("data")
SHOWN = re.compile(r"`(?P<operations>[^`\n]+)`|!\[(?P<source>\w+)\]\(pictures/(?P<file>[^)]+)\)")
SEPARATORS = re.compile(r"[^a-z0-9-]+")


class Picture(NamedTuple):
    """A picture on the page."""

    source: str
    operations: str
    file: str

    @property
    def expected_file(self) -> str:
        """The name of the file, which says what it shows."""
        return f"{self.source}-{SEPARATORS.sub('-', self.operations)}.{self.format}"

    @property
    def format(self) -> str:
        """The format of the file, which is its suffix."""
        return self.file.rpartition(".")[2]

    def encode(self) -> bytes:
        """Return the file that the operations make."""
        source = SOURCES[self.source]()
        marks = {"logo": encode_logo()}
        return ip.transform(source, self.operations, watermarks=marks, format=self.format).data


def list_pictures() -> Iterator[Picture]:
    """Yield each picture on the page, with the operations that are written in front of it."""
    operations = ""
    for shown in SHOWN.finditer(PAGE.read_text("utf-8")):
        if shown["source"] is None:
            operations = shown["operations"]
        else:
            yield Picture(shown["source"], operations, shown["file"])


@cache
def encode_photo() -> bytes:
    """Return the example photo in a size that is quick to work with."""
    return ip.transform(DOCS / "photo.jpg", "w_600,h_800,q_95").data


def read_camera() -> bytes:
    """Return a photo of a man with a camera, which is in the public domain (CC0)."""
    return (EXAMPLES / "camera.png").read_bytes()


def read_cat() -> bytes:
    """Return a photo of a cat, which is in the public domain (CC0)."""
    return (EXAMPLES / "chelsea.png").read_bytes()


@cache
def encode_logo() -> bytes:
    """Return a drawn logo: smooth edges and a translucent part before nothing."""
    large = Image.new("RGBA", (1920, 1440), (255, 255, 255, 0))
    draw = ImageDraw.Draw(large)
    draw.ellipse((160, 160, 1120, 1120), fill=(20, 110, 200, 255))
    draw.ellipse((440, 440, 840, 840), fill=(255, 255, 255, 0))
    draw.polygon([(800, 1280), (1300, 240), (1800, 1280)], fill=(240, 150, 0, 210))
    return encode_png(large.reduce(4))


@cache
def encode_screenshot() -> bytes:
    """Return a drawn screenshot: coloured text on a dark editor with a bar."""
    image = Image.new("RGB", (480, 360), "#1e2430")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    draw.rectangle((0, 0, 480, 30), fill="#e8eaf0")
    for index, color in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        draw.ellipse((12 + 22 * index, 9, 24 + 22 * index, 21), fill=color)
    draw.text((200, 6), "upload.py", fill="#333a48", font=font)
    colors = ("#ff7b9c", "#7fd1ff", "#b6f09c", "#ffd479", "#d3d7e0")
    random = np.random.default_rng(3)
    for row in range(14):
        x = 16 + 24 * int(random.integers(0, 3))
        for _ in range(int(random.integers(2, 6))):
            word = "".join(random.choice(list("aeioulmnrst_("), int(random.integers(3, 9))))
            draw.text((x, 42 + 22 * row), word, fill=str(random.choice(colors)), font=font)
            x += round(draw.textlength(word + " ", font=font))
    return encode_png(image)


@cache
def encode_animation() -> bytes:
    """Return a drawn animation: a ball that jumps before nothing."""
    frames = []
    for index in range(12):
        height = 1 - ((index - 6) / 6) ** 2
        large = Image.new("RGBA", (480, 480), (255, 255, 255, 0))
        draw = ImageDraw.Draw(large)
        reach = 120 - 50 * height
        draw.ellipse((240 - reach, 424, 240 + reach, 456), fill=(0, 0, 0, 90))
        top = 280 - 260 * height
        draw.ellipse((160, top, 320, top + 160), fill=(220, 60, 80, 255))
        draw.chord(
            (160, top, 320, top + 160), 30 * index, 30 * index + 180, fill=(250, 190, 60, 255)
        )
        frames.append(large.reduce(4))
    return encode_png(frames[0], append_images=frames[1:], save_all=True, duration=80)


def encode_png(image: Image.Image, **options: Any) -> bytes:
    """Return *image* as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


SOURCES: dict[str, Callable[[], bytes]] = {
    "photo": encode_photo,
    "camera": read_camera,
    "cat": read_cat,
    "logo": encode_logo,
    "screenshot": encode_screenshot,
    "animation": encode_animation,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    pictures = list(list_pictures())
    for outdated in {path.name for path in FOLDER.iterdir()} - {each.file for each in pictures}:
        (FOLDER / outdated).unlink()
    for picture in pictures:
        (FOLDER / picture.file).write_bytes(picture.encode())
