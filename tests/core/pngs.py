"""PNG files of every bit depth and colour type, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from tests.images import png_chunk

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row, and the steps to the next ones, of each pass of an interlaced image."""


def raw_png(
    size: tuple[int, int],
    depth: int,
    color_type: int,
    compressed: bytes,
    *chunks: bytes,
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of compressed rows, with ``chunks`` before the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, interlaced)
    pixels = png_chunk(b"IDAT", compressed)
    parts = [png_chunk(b"IHDR", header), *chunks, pixels, png_chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def row_png(width: int, depth: int, color_type: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of one row, with ``chunks`` before the pixels."""
    return raw_png((width, 1), depth, color_type, zlib.compress(b"\0" + row), *chunks)


def samples16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def palette(*colors: Sequence[int]) -> bytes:
    return png_chunk(b"PLTE", b"".join(map(bytes, colors)))


def transparency(payload: bytes) -> bytes:
    return png_chunk(b"tRNS", payload)
