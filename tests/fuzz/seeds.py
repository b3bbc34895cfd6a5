"""Small files of each kind, which the fuzzers start with."""

from __future__ import annotations

from tests.images import (
    animated_webp,
    apng,
    encode,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
    png_bomb,
)


def make_seeds() -> list[bytes]:
    """Return the seeds, generated with the helpers of the tests."""
    small = photo(16, 12)
    return [
        *(encode(small, image_format) for image_format in ("JPEG", "PNG", "WEBP")),
        encode(small, "JPEG", progressive=True),
        encode(small.convert("CMYK"), "JPEG"),
        *(encode(small.convert(mode), "PNG") for mode in ("1", "LA", "P", "RGBA")),
        encode(small.convert("RGBA"), "WEBP", lossless=True),
        apng(2, (8, 6)),
        animated_webp(2, (8, 6)),
        planted_jpeg(small),
        planted_png(small),
        planted_webp(),
        png_bomb(60_000, 60_000),
    ]
