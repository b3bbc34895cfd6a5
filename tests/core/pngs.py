"""PNG files of every bit depth and colour type, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from tests.images import png_chunk

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


def row_png(width: int, depth: int, color_type: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of one row, with ``chunks`` before the pixels."""
    header = struct.pack(">IIBBBBB", width, 1, depth, color_type, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + row))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(chunks)
        + pixels
        + png_chunk(b"IEND")
    )


def samples16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def palette(*colors: Sequence[int]) -> bytes:
    return png_chunk(b"PLTE", b"".join(map(bytes, colors)))


def transparency(payload: bytes) -> bytes:
    return png_chunk(b"tRNS", payload)
