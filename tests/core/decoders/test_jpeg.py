"""A JPEG is complete if its coded data is, whatever its end mark says."""

from __future__ import annotations

import random
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import validate
from imageprocessor.errors import InputError, InvalidImageError, TruncatedImageError
from tests.images import MARKER, encode, first_scan, insert_segments, jpeg_segment, photo

EOI = b"\xff\xd9"
PHOTO = photo(150, 100)
CODINGS = {
    "4:2:0": encode(PHOTO, "JPEG"),
    "4:4:4": encode(PHOTO, "JPEG", subsampling=0, optimize=True),
    "gray": encode(PHOTO.convert("L"), "JPEG"),
    "CMYK": encode(PHOTO.convert("CMYK"), "JPEG"),
    "restart markers": encode(PHOTO, "JPEG", restart_marker_blocks=3),
    "progressive": encode(PHOTO, "JPEG", progressive=True),
    "progressive gray": encode(PHOTO.convert("L"), "JPEG", progressive=True),
    "progressive CMYK": encode(PHOTO.convert("CMYK"), "JPEG", progressive=True),
    "progressive with restart markers": encode(
        PHOTO, "JPEG", progressive=True, restart_marker_blocks=7
    ),
}
each_coding = pytest.mark.parametrize("data", CODINGS.values(), ids=CODINGS)


def decoded(data: bytes, at_least: Dimensions | None = None) -> Image.Image:
    info = validate(data)
    return decode(unpack(BytesIO(data), info), info, Limits(), at_least)


def is_refused(data: bytes, at_least: Dimensions | None = None) -> bool:
    try:
        decoded(data, at_least)
    except InputError:
        return True
    return False


def test_pillow_has_the_decoder_that_runs_scan_by_scan() -> None:
    """``core.decoders.jpeg`` uses this, although Pillow does not document it."""
    decoder = Image.core.jpeg_decoder("RGB", "RGB", "", 1, 0)  # type: ignore[attr-defined]
    decoder.setimage(Image.new("RGB", PHOTO.size).im, (0, 0, *PHOTO.size))
    whole = CODINGS["4:2:0"]
    used, error = decoder.decode(memoryview(whole)[:-500])
    assert (0 < used <= len(whole) - 500, error) == (True, 0)
    assert decoder.decode(whole[used:]) == (-1, 0)
    decoder.cleanup()


@each_coding
@pytest.mark.parametrize("scale", [1, 4])
def test_a_whole_file_has_the_pixels_that_pillow_decodes(data: bytes, scale: int) -> None:
    size = Dimensions(150 // scale, 100 // scale)
    with Image.open(BytesIO(data)) as image:
        image.draft(None, size)
        assert decoded(data, size).tobytes() == image.tobytes()


@each_coding
@pytest.mark.parametrize("end", [b"", EOI], ids=["cut", "closed"])
def test_a_file_cut_anywhere_is_refused(data: bytes, end: bytes) -> None:
    places = range(first_scan(data), len(data) - 2 - 30, 83)
    accepted = [place for place in places if not is_refused(data[:place] + end)]
    assert accepted == []


@each_coding
def test_a_file_cut_anywhere_is_refused_at_a_smaller_scale(data: bytes) -> None:
    places = range(first_scan(data), len(data) - 2 - 30, 331)
    small = Dimensions(20, 10)
    assert all(is_refused(data[:place] + EOI, small) for place in places)


def test_a_scan_without_data_is_truncated() -> None:
    data = CODINGS["4:2:0"]
    with pytest.raises(TruncatedImageError, match="before its last pixel: image data is missing"):
        decoded(data[: first_scan(data)] + EOI)


def test_a_progressive_file_cut_between_scans_is_truncated() -> None:
    data = CODINGS["progressive"]
    scans = [found.start() for found in MARKER.finditer(data) if found[0] == b"\xff\xda"]
    for scan in scans[1:]:
        with pytest.raises(TruncatedImageError):
            decoded(data[:scan] + EOI)


@pytest.mark.parametrize("name", ["4:2:0", "4:4:4", "gray", "CMYK", "progressive"])
def test_a_part_that_is_cut_out_is_noticed(name: str) -> None:
    data = CODINGS[name]
    start = first_scan(data)
    third = (len(data) - start) // 3
    assert is_refused(data[: start + third] + data[start + 2 * third :])


@pytest.mark.parametrize("name", ["restart markers", "progressive with restart markers"])
def test_a_missing_or_misplaced_restart_marker_is_damage(name: str) -> None:
    data = CODINGS[name]
    start = first_scan(data)
    second, third = data.index(b"\xff\xd1", start), data.index(b"\xff\xd2", start)
    fourth = data.index(b"\xff\xd3", start)
    without_interval = data[:second] + data[third:]
    swapped = data[:second] + data[third:fourth] + data[second:third] + data[fourth:]
    for damaged in (without_interval, swapped):
        with pytest.raises(InvalidImageError, match="a part in the middle is missing"):
            decoded(damaged)


@pytest.mark.parametrize("name", ["4:2:0", "gray", "progressive"])
def test_data_behind_the_last_pixel_is_damage(name: str) -> None:
    surplus = random.Random(0).randbytes(200).replace(b"\xff", b"")
    with pytest.raises(InvalidImageError, match="image data behind its last pixel"):
        decoded(CODINGS[name][:-2] + surplus + EOI)


@each_coding
@pytest.mark.parametrize("padding", [bytes(99), b"\xff" * 99, b"\0\xff" * 40, b"\xff\xd7"])
def test_padding_behind_the_last_pixel_is_harmless(data: bytes, padding: bytes) -> None:
    assert decoded(data[:-2] + padding + EOI).tobytes() == decoded(data).tobytes()


@each_coding
@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        b"\xff",
        b"SEFT and what a maker appends" * 9,
        random.Random(0).randbytes(70_000),
        encode(photo(9, 9), "JPEG"),
        b"\xff\xdb\0\4ab",
    ],
    ids=["nothing", "half a mark", "text", "noise", "JPEG", "tables"],
)
def test_a_whole_image_without_its_end_mark_is_accepted(data: bytes, trailer: bytes) -> None:
    without_end = data[:-2] + trailer
    assert decoded(without_end).tobytes() == decoded(data).tobytes()
    sizes = [ip.VariantSpec("small", width=100)]
    assert ip.process(without_end, sizes, threads=1).warnings == ("end_missing",)


def test_a_whole_image_with_its_end_mark_has_no_warning() -> None:
    sizes = [ip.VariantSpec("small", width=100)]
    assert ip.process(CODINGS["4:2:0"] + b"trailer", sizes, threads=1).warnings == ()


@pytest.mark.parametrize("name", ["4:2:0", "progressive"])
def test_segments_and_tem_markers_around_scans_are_passed_over(name: str) -> None:
    data = CODINGS[name]
    comment = jpeg_segment(0xFE, b"hello")
    noted = insert_segments(data[:-2], b"\xff\x01", comment) + b"\xff\x01" + comment + EOI
    assert decoded(noted).tobytes() == decoded(data).tobytes()


@pytest.mark.parametrize(
    "change",
    [{10: 0}, {11: 0x00}, {9: 4}, {11: 0xFF}],
    ids=["other component", "no sampling", "too many components", "too much sampling"],
)
def test_a_damaged_frame_header_is_invalid(change: dict[int, Any]) -> None:
    data = bytearray(CODINGS["4:2:0"])
    frame = data.index(b"\xff\xc0")
    for place, value in change.items():
        data[frame + place] = value
    with pytest.raises(InvalidImageError):
        decoded(bytes(data))
