"""The images that need most memory within the limits: 50 megapixels of noise in at most 10 MB.

The width of 4096 px is that of the largest size, so nothing is shrunk before it is encoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.core.pngs import (
    ADAM7,
    CHANNELS,
    GRAY,
    GRAY_ALPHA,
    PALETTE,
    RGBA,
    palette,
    raw_png,
    transparency,
)
from tests.gifs import control, frame, gif
from tests.heif import KINDS, coded, grid, heif
from tests.images import encode

WIDTH, HEIGHT = 4096, 12207
UP = b"\2"  # the filter that adds the row above to the stored row


def noisy_png(
    width: int, height: int, depth: int, color_type: int, *chunks: bytes, interlaced: bool = False
) -> bytes:
    """Return a small PNG of noise: its stored rows are all the same, but its pixels differ."""
    noise = np.random.default_rng(0).integers(0, 256, 256, np.uint8).tobytes()
    deflate = zlib.compressobj(1)
    data = []
    for left, top, step, line_step in ADAM7 if interlaced else ((0, 0, 1, 1),):
        row_bytes = -(-((width - left + step - 1) // step * depth * CHANNELS[color_type]) // 8)
        row = UP + (noise * (row_bytes // 256 + 1))[:row_bytes]
        data += [deflate.compress(row) for _ in range(top, height, line_step)]
    compressed = b"".join([*data, deflate.flush()])
    return raw_png((width, height), depth, color_type, compressed, *chunks, interlaced=interlaced)


def noise(mode: str, block: int = 1) -> Image.Image:
    """Return an image of noise: one tile of 512 × 512 px, repeated."""
    channels = len(mode)
    side = 512 // block
    tile = np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)
    tile = tile.repeat(block, 0).repeat(block, 1)
    repeats = (HEIGHT // 512 + 1, WIDTH // 512 + 1, 1)
    return Image.fromarray(
        np.tile(tile, repeats)[:HEIGHT, :WIDTH], "CMYK" if mode == "CMYK" else None
    )


def png(
    depth: int, color_type: int, *chunks: bytes, interlaced: bool = False
) -> Callable[[], bytes]:
    return lambda: noisy_png(WIDTH, HEIGHT, depth, color_type, *chunks, interlaced=interlaced)


def tiled(kind: str) -> Callable[[], bytes]:
    """Return what makes a grid of 48 tiles, with even sides, as AVIF requires."""

    def make() -> bytes:
        source = noise("RGB").crop((0, 0, 1024, 1024))
        tile = coded(source.reduce(8).resize((1024, 1024)), kind)
        numbers = list(range(2, 50))
        return heif(kind, grid(numbers, 4, WIDTH, HEIGHT - 1), *[tile] * len(numbers))

    return make


WORST: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(noise("RGB"), "JPEG", quality=3),
    "progressive JPEG": lambda: encode(
        noise("RGB"), "JPEG", quality=1, progressive=True, subsampling=0
    ),
    "progressive CMYK JPEG": lambda: encode(
        noise("CMYK", 16), "JPEG", quality=5, progressive=True, subsampling=0
    ),
    "PNG, RGBA": png(8, RGBA),
    "PNG, RGBA of 16 bits": png(16, RGBA),
    "PNG, RGBA, interlaced": png(8, RGBA, interlaced=True),
    "PNG, palette with alpha": png(
        8, PALETTE, palette(*((n, n, n) for n in range(256))), transparency(bytes(range(256)))
    ),
    "PNG, gray of 16 bits": png(16, GRAY),
    "PNG, gray with alpha of 16 bits": png(16, GRAY_ALPHA),
    "PNG, narrow": lambda: noisy_png(2048, 16383, 8, RGBA),
    "PNG, to be scaled": lambda: noisy_png(2048, 24414, 8, RGBA),
    "WebP": lambda: encode(noise("RGB"), "WEBP", quality=0, method=0),
    "WebP with alpha": lambda: encode(noise("RGBA"), "WEBP", quality=0, method=0, alpha_quality=0),
    "lossless WebP": lambda: encode(noise("RGBA", 16), "WEBP", lossless=True, quality=0, method=0),
    "GIF, partly transparent": lambda: gif(
        (WIDTH, HEIGHT), control(transparent=7) + frame((16, 16), 200, at=(8, 8))
    ),
    **{f"{kind}, tiled": tiled(kind) for kind in KINDS},
}
