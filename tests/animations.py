"""Animations built by hand, frame by frame, as APNG and WebP."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from tests.images import encode, png_chunk, riff, webp_chunk, webp_chunks

SIDE = 16


@dataclass(frozen=True)
class Step:
    """A frame: an image, or a colour for all of it, and where and how it is drawn."""

    image: Image.Image | str | tuple[int, int, int, int]
    box: tuple[int, int, int, int] = (0, 0, SIDE, SIDE)  # left, top, width, height
    milliseconds: int = 40
    blends: bool = True
    disposal: Literal["keep", "clear", "restore"] = "keep"

    @property
    def pixels(self) -> Image.Image:
        if isinstance(self.image, Image.Image):
            return self.image
        return Image.new("RGBA", self.box[2:], self.image)


def apng(
    steps: Sequence[Step],
    *,
    size: tuple[int, int] = (SIDE, SIDE),
    plays: int = 0,
    default: Image.Image | None = None,
    announced: int | None = None,
) -> bytes:
    """Return an APNG; *default* is an image before the animation that is not part of it."""
    count = len(steps) if announced is None else announced
    parts = [png_chunk(b"acTL", struct.pack(">II", count, plays))]
    number = 0
    if default is not None:
        parts.append(png_chunk(b"IDAT", _compressed(default)))
    for index, step in enumerate(steps):
        left, top, width, height = step.box
        disposal = ("keep", "clear", "restore").index(step.disposal)
        sides = (width, height, left, top)
        control = struct.pack(
            ">IIIIIHHBB", number, *sides, step.milliseconds, 1000, disposal, step.blends
        )
        parts.append(png_chunk(b"fcTL", control))
        number += 1
        compressed = _compressed(step.pixels)
        if index == 0 and default is None:
            parts.append(png_chunk(b"IDAT", compressed))
            continue
        half = len(compressed) // 2
        for data in (compressed[:half], compressed[half:]):
            parts.append(png_chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
    head = encode(Image.new("RGBA", size), "PNG")[:33]
    return head + b"".join(parts) + png_chunk(b"IEND")


def webp(steps: Sequence[Step], *, size: tuple[int, int] = (SIDE, SIDE), plays: int = 0) -> bytes:
    """Return a lossless animated WebP; left and top must be even."""
    width, height = size
    header = struct.pack("<I", 0x12) + _three(width - 1) + _three(height - 1)
    chunks = [
        webp_chunk(b"VP8X", header),
        webp_chunk(b"ANIM", bytes(4) + struct.pack("<H", plays)),
    ]
    for step in steps:
        left, top, width, height = step.box
        sides = (left // 2, top // 2, width - 1, height - 1, step.milliseconds)
        flags = (0 if step.blends else 2) + (step.disposal == "clear")
        still = webp_chunks(encode(step.pixels, "WEBP", lossless=True, exact=True))
        images = [webp_chunk(*chunk) for chunk in still if chunk[0] in (b"VP8 ", b"VP8L", b"ALPH")]
        frame = b"".join(map(_three, sides)) + bytes((flags,)) + b"".join(images)
        chunks.append(webp_chunk(b"ANMF", frame))
    return riff(*chunks)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _compressed(image: Image.Image) -> bytes:
    image = image.convert("RGBA")
    stride = 4 * image.width or 4
    data = image.tobytes()
    rows = [b"\0" + data[start : start + stride] for start in range(0, len(data), stride)]
    return zlib.compress(b"".join(rows))
