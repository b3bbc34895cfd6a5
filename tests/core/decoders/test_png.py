"""A PNG is complete if its rows are, whatever its chunks say."""

from __future__ import annotations

import zlib
from io import BytesIO

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import validate
from imageprocessor.errors import InvalidImageError, TruncatedImageError
from tests.core.pngs import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, palette
from tests.hostile.worst import noisy_png
from tests.images import SRGB_PROFILE, encode, insert_chunks, photo, png_bomb, png_chunk

COLORS = palette(*((level, 9, 9) for level in range(256)))
CODINGS = {
    f"{depth} bits, type {kind}{', interlaced' if interlaced else ''}": noisy_png(
        45,
        21,
        depth,
        kind,
        *([COLORS] if kind == PALETTE else []),
        interlaced=interlaced,
    )
    for depth, kind in [
        (1, GRAY),
        (2, GRAY),
        (8, GRAY),
        (16, GRAY),
        (8, RGB),
        (16, RGB),
        (8, PALETTE),
        (8, GRAY_ALPHA),
        (16, GRAY_ALPHA),
        (8, RGBA),
        (16, RGBA),
    ]
    for interlaced in (False, True)
}
each_coding = pytest.mark.parametrize("data", CODINGS.values(), ids=CODINGS)
SIZES = [ip.VariantSpec("small", width=20)]


def decoded(data: bytes) -> Image.Image:
    info = validate(data)
    return decode(unpack(BytesIO(data), info), info, Limits())


def split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a PNG of one IDAT chunk as what precedes it, its pixels, and what follows it."""
    start = data.index(b"IDAT") - 4
    end = start + 8 + int.from_bytes(data[start : start + 4])
    return data[:start], zlib.decompress(data[start + 8 : end]), data[end + 4 :]


@each_coding
def test_a_whole_image_is_accepted_and_rows_that_are_missing_are_noticed(data: bytes) -> None:
    before, rows, after = split(data)
    decoded(data)
    for missing in (1, 7, len(rows) // 3, len(rows) - 1, len(rows)):
        short = before + png_chunk(b"IDAT", zlib.compress(rows[:-missing])) + after
        with pytest.raises(TruncatedImageError, match="image data is missing"):
            decoded(short)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 3), (40, 30)])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_black_rows_are_not_missing(size: tuple[int, int], mode: str) -> None:
    assert decoded(encode(Image.new(mode, size), "PNG")).size == size


def test_small_interlaced_images_are_whole() -> None:
    for width in range(5, 10):  # narrower ones lack a pass
        for height in range(1, 10):
            data = noisy_png(width, height, 8, RGB, interlaced=True)
            assert decoded(data).size == (width, height)


def test_a_bomb_of_few_pixels_is_truncated() -> None:
    with pytest.raises(TruncatedImageError):
        decoded(png_bomb(100, 100))


def test_a_file_cut_between_idat_chunks_is_truncated() -> None:
    before, rows, _ = split(encode(photo(64, 48), "PNG"))
    compressed = zlib.compress(rows)
    first_half = before + png_chunk(b"IDAT", compressed[:2000])
    decoded(first_half + png_chunk(b"IDAT", compressed[2000:]) + png_chunk(b"IEND"))
    for end in (b"", png_chunk(b"IEND"), png_chunk(b"IDAT", compressed[2000:])[:500]):
        with pytest.raises(TruncatedImageError):
            decoded(first_half + end)


@pytest.mark.parametrize("end", [b"", b"\0\0\0\0IEND", b"\0\0\0\0IENDabcd", b"junk" * 9])
def test_a_whole_image_without_its_end_mark_is_accepted(end: bytes) -> None:
    data = encode(photo(64, 48), "PNG")
    assert ip.process(data[:-12] + end, SIZES, threads=1).warnings == ("end_missing",)
    assert ip.strip_metadata(data[:-12] + end) == data


@pytest.mark.parametrize(
    ("name", "payload", "warnings"),
    [
        (b"pHYs", bytes(9), ()),
        (b"gAMA", bytes(4), ()),
        (b"tRNS", bytes(6), ()),
        (b"prVt", b"", ()),
        (b"tEXt", b"a\0b", ()),
        (b"iCCP", b"p\0\0" + zlib.compress(SRGB_PROFILE), ("icc_invalid",)),
    ],
)
def test_a_damaged_ancillary_chunk_is_ignored(
    name: bytes, payload: bytes, warnings: tuple[str, ...]
) -> None:
    damaged = bytearray(png_chunk(name, payload))
    damaged[-1] ^= 1
    plain = encode(photo(64, 48), "PNG")
    data = insert_chunks(plain, bytes(damaged))
    result = ip.process(data, SIZES, threads=1)
    assert result.warnings == warnings
    assert result.variants["small"].data == ip.process(plain, SIZES).variants["small"].data
    assert ip.strip_metadata(data) == plain


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_damaged_critical_chunk_is_not(name: bytes) -> None:
    data = bytearray(encode(photo(64, 48).quantize(9), "PNG"))
    data[data.index(name) + 5] ^= 1
    with pytest.raises(InvalidImageError):
        decoded(bytes(data))
