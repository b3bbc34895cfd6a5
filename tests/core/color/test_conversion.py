from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from imageprocessor.core.color import conversion
from imageprocessor.core.color.conversion import to_srgb
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import validate
from tests.core.pngs import (
    GRAY,
    GRAY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    palette,
    row_png,
    samples16,
    transparency,
)
from tests.images import SRGB_PROFILE, encode, insert_chunks, photo, png_chunk

OPAQUE = 255


def srgb(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    info = validate(data)
    image = decode(unpack(io.BytesIO(data), info), info, Limits())
    return to_srgb(image)


def row(data: bytes) -> list[tuple[int, ...]]:
    """Return the converted pixels of an image of one row."""
    return [tuple(pixel) for pixel in np.asarray(srgb(data)[0])[0].tolist()]


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        pytest.param(row_png(2, 1, GRAY, b"\x40"), [(0,) * 3, (255,) * 3], id="1 bit"),
        pytest.param(
            row_png(4, 2, GRAY, b"\x1b"), [(0,) * 3, (85,) * 3, (170,) * 3, (255,) * 3], id="2 bits"
        ),
        pytest.param(row_png(2, 4, GRAY, b"\x3f"), [(51,) * 3, (255,) * 3], id="4 bits"),
        pytest.param(
            row_png(4, 16, GRAY, samples16(0, 255, 0x8080, 65535)),
            [(0,) * 3, (0,) * 3, (128,) * 3, (255,) * 3],
            id="16-bit gray is scaled, not clipped",
        ),
        pytest.param(
            row_png(1, 16, RGB, samples16(0x1234, 0x5678, 0xFFFF)),
            [(0x12, 0x56, 255)],
            id="16-bit RGB",
        ),
        pytest.param(
            row_png(1, 16, RGBA, samples16(0x1234, 0x5678, 0xFFFF, 0x8000)),
            [(0x12, 0x56, 255, 128)],
            id="16-bit RGBA",
        ),
        pytest.param(
            row_png(1, 16, GRAY_ALPHA, samples16(0x4000, 0x8000)),
            [(64, 64, 64, 128)],
            id="16-bit LA",
        ),
        pytest.param(row_png(1, 8, GRAY_ALPHA, b"\x40\x80"), [(64, 64, 64, 128)], id="LA"),
        pytest.param(
            row_png(2, 8, GRAY_ALPHA, b"\x40\xff\x20\xff"),
            [(64,) * 3, (32,) * 3],
            id="LA, all opaque",
        ),
        pytest.param(row_png(1, 8, RGBA, b"\1\2\3\xff"), [(1, 2, 3)], id="RGBA, all opaque"),
        pytest.param(
            row_png(1, 8, RGBA, b"\1\2\3\xfe"), [(1, 2, 3, 254)], id="RGBA, barely translucent"
        ),
        pytest.param(
            row_png(2, 8, PALETTE, b"\0\1", palette((1, 2, 3), (4, 5, 6))),
            [(1, 2, 3), (4, 5, 6)],
            id="P",
        ),
        pytest.param(
            row_png(2, 8, PALETTE, b"\0\1", palette((1, 2, 3), (4, 5, 6)), transparency(b"\x80")),
            [(1, 2, 3, 128), (4, 5, 6, OPAQUE)],
            id="P with translucent entries",
        ),
        pytest.param(
            row_png(2, 8, PALETTE, b"\0\1", palette((1, 2, 3), (4, 5, 6)), transparency(b"\xff\0")),
            [(1, 2, 3, OPAQUE), (4, 5, 6, 0)],
            id="P with one transparent entry",
        ),
        pytest.param(
            row_png(2, 8, GRAY, b"\1\2", transparency(samples16(2))),
            [(1, 1, 1, OPAQUE), (2, 2, 2, 0)],
            id="tRNS on gray",
        ),
        pytest.param(
            row_png(2, 2, GRAY, b"\x60", transparency(samples16(1))),
            [(85, 85, 85, 0), (170, 170, 170, OPAQUE)],
            id="tRNS on 2-bit gray",
        ),
        pytest.param(
            row_png(2, 4, GRAY, b"\x12", transparency(samples16(1))),
            [(17, 17, 17, 0), (34, 34, 34, OPAQUE)],
            id="tRNS on 4-bit gray",
        ),
        pytest.param(
            row_png(2, 1, GRAY, b"\x40", transparency(samples16(1))),
            [(0, 0, 0, OPAQUE), (255, 255, 255, 0)],
            id="tRNS on 1 bit",
        ),
        pytest.param(
            row_png(
                3, 16, GRAY, samples16(0x1234, 0x1235, 0x1334), transparency(samples16(0x1234))
            ),
            [(18, 18, 18, 0), (18, 18, 18, OPAQUE), (19, 19, 19, OPAQUE)],
            id="tRNS on 16-bit gray",
        ),
        pytest.param(
            row_png(2, 8, RGB, b"\1\2\3\1\2\4", transparency(samples16(1, 2, 3))),
            [(1, 2, 3, 0), (1, 2, 4, OPAQUE)],
            id="tRNS on RGB",
        ),
        pytest.param(
            row_png(
                4,
                16,
                RGB,
                samples16(0x1234, 0, 7, 0x1235, 0, 7, 0x1234, 0, 8, 0x1234, 1, 7),
                transparency(samples16(0x1234, 0, 7)),
            ),
            [(0x12, 0, 0, 0), *[(0x12, 0, 0, OPAQUE)] * 3],
            id="tRNS on 16-bit RGB",
        ),
    ],
)
def test_every_png_coding_becomes_8_bit_srgb(data: bytes, pixels: list[tuple[int, ...]]) -> None:
    assert row(data) == pixels


def test_gray_jpeg_becomes_rgb() -> None:
    gray = photo(16, 16).convert("L")
    converted, lost = srgb(encode(gray, "JPEG", quality=100))
    assert (converted.mode, lost) == ("RGB", ())
    assert np.abs(np.asarray(converted).astype(int) - np.asarray(gray)[..., None]).max() <= 2


@pytest.mark.parametrize(
    ("ink", "rgb"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_jpeg_without_profile_is_converted_by_formula(
    ink: tuple[int, ...], rgb: tuple[int, ...]
) -> None:
    converted, lost = srgb(encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100))
    assert (converted.mode, lost) == ("RGB", ())
    assert np.abs(np.asarray(converted).astype(int) - rgb).max() <= 2


def test_lossless_webp_keeps_pixels_and_alpha() -> None:
    image = photo(16, 16).convert("RGBA")
    image.putpixel((3, 3), (9, 8, 7, 100))
    converted, _ = srgb(encode(image, "WEBP", lossless=True))
    assert converted.mode == "RGBA"
    assert converted.tobytes() == image.tobytes()


def test_converted_images_have_empty_info() -> None:
    for data in (
        encode(photo(16, 16), "JPEG", icc_profile=SRGB_PROFILE, dpi=(72, 72)),
        encode(photo(9, 9), "WEBP"),
    ):
        assert srgb(data)[0].info == {}


# Profiles


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"nonsense", id="nonsense"),
        pytest.param(SRGB_PROFILE[:200], id="truncated"),
        pytest.param(bytes(len(SRGB_PROFILE)), id="zeros"),
        pytest.param(SRGB_PROFILE + bytes(conversion.MAX_PROFILE_BYTES), id="too long"),
    ],
)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
def test_broken_profile_is_ignored_with_a_warning(profile: bytes, mode: str) -> None:
    plain = photo(16, 16).convert(mode)
    expected, _ = to_srgb(plain.copy())
    plain.info["profiles"] = (profile,)
    converted, lost = to_srgb(plain)
    assert lost == ("icc_invalid",)
    assert (converted.mode, converted.tobytes()) == (expected.mode, expected.tobytes())


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK"])
def test_profile_for_another_colour_space_is_ignored_with_a_warning(mode: str) -> None:
    image = photo(16, 16).convert(mode)
    image.info["profiles"] = (SRGB_PROFILE,)
    assert to_srgb(image)[1] == ("icc_invalid",)


def test_lab_profile_is_not_used_for_rgb() -> None:
    image = photo(16, 16)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image.info["profiles"] = (lab,)
    assert to_srgb(image)[1] == ("icc_invalid",)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no end of name",
        b"name\0",
        b"name\0\0",
        b"name\0\0not deflate",
        b"name\0\0" + bytes(9),
    ],
)
def test_damaged_iccp_chunk_does_not_fail_a_png(payload: bytes) -> None:
    plain = encode(photo(16, 16), "PNG")
    converted, lost = srgb(insert_chunks(plain, png_chunk(b"iCCP", payload)))
    assert converted.tobytes() == photo(16, 16).tobytes()
    assert lost == ("icc_invalid",)


def test_profile_that_is_a_decompression_bomb_is_ignored() -> None:
    bomb = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(64 << 20), 9))
    assert srgb(insert_chunks(encode(photo(16, 16), "PNG"), bomb))[1] == ("icc_invalid",)


def test_parts_of_a_jpeg_profile_are_joined_by_their_number() -> None:
    data = encode(photo(16, 16), "JPEG", icc_profile=SRGB_PROFILE + bytes(70_000))
    first = data.index(b"\xff\xe2")
    second = data.index(b"\xff\xe2", first + 60_000)
    end = second + 2 + int.from_bytes(data[second + 2 : second + 4])
    swapped = data[:first] + data[second:end] + data[first:second] + data[end:]
    assert srgb(data)[1] == srgb(swapped)[1] == ()


def test_missing_part_of_a_jpeg_profile_makes_it_invalid() -> None:
    profile = bytearray(SRGB_PROFILE + bytes(70_000))
    profile[0:4] = len(profile).to_bytes(4)
    data = encode(photo(16, 16), "JPEG", icc_profile=bytes(profile))
    first = data.index(b"\xff\xe2")
    second = data.index(b"\xff\xe2", first + 60_000)
    assert srgb(data[:first] + data[second:])[1] == ("icc_invalid",)


def test_srgb_profile_changes_no_pixel() -> None:
    image = photo(64, 64)
    before = image.tobytes()
    image.info["profiles"] = (SRGB_PROFILE,)
    converted, lost = to_srgb(image)
    assert (converted.tobytes(), lost) == (before, ())


def test_no_color_changes_visibly_if_a_profile_counts_as_srgb() -> None:
    """The probe in the code is a sample; this test checks all 2²⁴ colours."""
    transform = conversion._transform_to_srgb(SRGB_PROFILE, "RGB")
    assert conversion._changes_nothing(transform, "RGB")
    levels = np.arange(256, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(
        4096, 4096, 3
    )
    moved = np.asarray(transform.apply(Image.fromarray(cube)))
    assert (
        np.maximum(moved, cube).max(
            initial=0, where=np.maximum(moved, cube) - np.minimum(moved, cube) > 1
        )
        == 0
    )
