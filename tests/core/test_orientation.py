from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps

from imageprocessor.core.orientation import orientation_exif, read_orientation, upright
from tests.images import oriented, photo, planted_exif

ORIENTATIONS = range(1, 9)


def tiff(order: str, *entries: bytes, count: int | None = None, start: int = 8) -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    number = len(entries) if count is None else count
    return magic + struct.pack(f"{order}IH", start, number) + b"".join(entries)


def entry(order: str, value: int, kind: int = 3, count: int = 1) -> bytes:
    return struct.pack(f"{order}HHI", 0x0112, kind, count) + struct.pack(f"{order}HH", value, 0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_orientation_that_pillow_writes_is_read(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_orientation(exif.tobytes()) == orientation
    assert read_orientation(exif.tobytes().removeprefix(b"Exif\0\0")) == orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pillow_reads_the_written_block(orientation: int) -> None:
    block = orientation_exif(orientation)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    assert dict(exif) == {0x0112: orientation}
    assert len(block) == 26


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_upright_undoes_the_cameras_orientation(orientation: int) -> None:
    image = photo(40, 24)
    with Image.open(BytesIO(oriented(image, orientation, "PNG"))) as stored:
        assert ImageChops.difference(upright(stored, orientation), image).getbbox() is None
        assert upright(stored, orientation).tobytes() == ImageOps.exif_transpose(stored).tobytes()


def test_orientation_1_returns_the_image_itself() -> None:
    image = photo(4, 4)
    assert upright(image, 1) is image


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    assert read_orientation(tiff(order, entry(order, 6))) == 6


@pytest.mark.parametrize(
    "exif",
    [
        None,
        b"",
        b"Exif\0\0",
        b"not a TIFF block",
        b"II*\0",
        tiff("<", entry("<", 0)),
        tiff("<", entry("<", 9)),
        tiff("<", entry(">", 6)),
        tiff("<", entry("<", 6, kind=2)),
        tiff("<", entry("<", 6, kind=99)),
        tiff("<", entry("<", 6, count=0)),
        tiff("<", entry("<", 6, count=2)),
        tiff("<", entry("<", 6, count=0xFFFFFFFF)),
        tiff("<", entry("<", 6), start=0xFFFFFFF0),
        tiff("<", entry("<", 6), start=0),
        tiff("<", entry("<", 6)[:6]),
        b"II+\0" + tiff("<", entry("<", 6))[4:],
    ],
)
def test_a_missing_or_broken_block_means_orientation_1(exif: bytes | None) -> None:
    assert read_orientation(exif) == 1


def test_tags_before_the_damage_count() -> None:
    assert read_orientation(tiff(">", entry(">", 8), count=0xFFFF)) == 8


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_bytes_make_read_orientation_fail(noise: bytes, place: int) -> None:
    exif = planted_exif()
    assert read_orientation(noise) in ORIENTATIONS
    assert read_orientation(exif[:place] + noise + exif[place + len(noise) :]) in ORIENTATIONS
