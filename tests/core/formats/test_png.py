from __future__ import annotations

import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import Image

from imageprocessor.core.formats import png
from imageprocessor.core.formats.container import Header
from imageprocessor.errors import InputError, InvalidImageError, TruncatedImageError
from tests.images import (
    SRGB_PROFILE,
    apng,
    encode,
    insert_chunks,
    photo,
    pixels,
    planted_exif,
    png_bomb,
    png_chunk,
    truncated,
)

PLAIN = encode(photo(40, 30), "PNG")
SIGNATURE = PLAIN[:8]
HEADER = PLAIN[8:33]


def clean(data: bytes) -> bytes:
    return png.join(piece.clean for piece in png.read_pieces(BytesIO(data)))


def kinds(data: bytes) -> list[str]:
    return [kind for piece in png.read_pieces(BytesIO(data)) for kind in piece.kinds]


def test_the_header_has_the_size_that_ihdr_declares() -> None:
    assert png.read_header(BytesIO(PLAIN)) == Header(40, 30, 1)
    assert png.read_header(BytesIO(png_bomb(60_000, 50_000))) == Header(60_000, 50_000, 1)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_of_an_animation_are_counted(frames: int) -> None:
    assert png.read_header(BytesIO(apng(frames))).frames == frames


@pytest.mark.parametrize("claimed", [0, 0x8000_0000, 0xFFFF_FFFF])
def test_an_impossible_number_of_frames_means_one(claimed: int) -> None:
    data = insert_chunks(PLAIN, png_chunk(b"acTL", struct.pack(">II", claimed, 0)))
    assert png.read_header(BytesIO(data)).frames == 1


def test_the_header_of_a_truncated_file_is_read() -> None:
    assert png.read_header(BytesIO(truncated(PLAIN, 0.5))) == Header(40, 30, 1)
    assert png.read_header(BytesIO(truncated(apng(4), 0.3))) == Header(32, 24, 4)
    profile_cut = insert_chunks(PLAIN, png_chunk(b"iCCP", bytes(500)))[:100]
    assert png.read_header(BytesIO(profile_cut)) == Header(40, 30, 1)


@pytest.mark.parametrize("size_bytes", [1, 8, 20, 32])
def test_a_file_that_ends_within_ihdr_is_truncated(size_bytes: int) -> None:
    with pytest.raises(TruncatedImageError):
        png.read_header(BytesIO(PLAIN[:size_bytes]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\n\r\x1a\n" + PLAIN[8:], "does not start like a PNG"),
        (SIGNATURE + png_chunk(b"IDAT", b"x"), "IDAT"),
        (SIGNATURE + HEADER + HEADER, "IHDR.*at byte 33"),
        (SIGNATURE + HEADER + png_chunk(b"ID\0T", b"x"), "at byte 33"),
        (SIGNATURE + png_chunk(b"IHDR", bytes(12)), "12 bytes instead of 13"),
        (PLAIN[:16] + b"\1" + PLAIN[17:], "damaged IHDR"),
    ],
)
def test_a_file_that_is_not_a_png_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        png.read_header(BytesIO(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_plain_png_of_any_mode_is_unchanged(mode: str) -> None:
    image = (
        photo(40, 30).convert("L").convert("I;16")
        if mode == "I;16"
        else photo(40, 30).convert(mode)
    )
    data = encode(image, "PNG", dpi=(300, 300))
    assert clean(data) == data


@pytest.mark.parametrize(
    "name",
    [b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"pHYs", b"mDCV", b"cLLI"],
)
def test_chunks_that_affect_the_display_are_kept(name: bytes) -> None:
    data = insert_chunks(PLAIN, png_chunk(name, b"\0\1\0\1"))
    assert clean(data) == data


def test_an_animation_is_kept() -> None:
    data = apng()
    noted = insert_chunks(data, png_chunk(b"tEXt", b"a\0b"), before=b"fdAT")
    assert clean(noted) == data


@pytest.mark.parametrize(
    ("name", "payload", "kind"),
    [
        (b"tEXt", b"Author\0Ann", "comment"),
        (b"zTXt", b"Author\0\0" + zlib.compress(b"Ann"), "comment"),
        (b"iTXt", b"Author\0\0\0\0\0Ann", "comment"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>", "xmp"),
        (b"zTXt", b"Raw profile type xmp\0\0", "xmp"),
        (b"zTXt", b"Raw profile type exif\0\0", "exif"),
        (b"zTXt", b"Raw profile type APP1\0\0", "exif"),
        (b"zTXt", b"Raw profile type iptc\0\0", "iptc"),
        (b"eXIf", b"MM\0*", "exif"),
        (b"tIME", bytes(7), "time"),
        (b"caBX", b"jumb", "c2pa"),
        (b"hIST", bytes(4), "other"),
        (b"prVt", b"", "other"),
    ],
)
def test_every_kind_of_metadata_is_named_and_dropped(
    name: bytes, payload: bytes, kind: str
) -> None:
    data = insert_chunks(PLAIN, png_chunk(name, payload))
    assert kinds(data) == [kind]
    assert clean(data) == PLAIN


def test_a_preview_inside_exif_is_named() -> None:
    assert kinds(insert_chunks(PLAIN, png_chunk(b"eXIf", planted_exif()))) == [
        "exif",
        "gps",
        "thumbnail",
    ]


def test_a_gain_map_is_recognized_by_xmp() -> None:
    xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x hdrgm:Version='1.0'/>")
    assert kinds(insert_chunks(PLAIN, xmp)) == ["xmp", "gain_map"]


@pytest.mark.parametrize(
    ("name", "kept"), [(b"Ann's phone, no. 7", b"ICC profile"), (b"Ann", b"ICC")]
)
def test_the_profile_is_kept_but_its_name_is_replaced(name: bytes, kept: bytes) -> None:
    compressed = zlib.compress(SRGB_PROFILE)
    data = insert_chunks(PLAIN, png_chunk(b"iCCP", name + b"\0\0" + compressed))
    assert clean(data) == insert_chunks(PLAIN, png_chunk(b"iCCP", kept + b"\0\0" + compressed))
    (profile,) = [piece.payload for piece in png.read_pieces(BytesIO(data)) if piece.kinds]
    assert png.decode_icc([profile]) == SRGB_PROFILE
    with Image.open(BytesIO(clean(data))) as image:
        assert image.info["icc_profile"] == SRGB_PROFILE


def test_a_broken_profile_is_not_an_error() -> None:
    assert png.decode_icc([b"not deflated"]) == b""


def test_a_profile_bomb_is_truncated_at_16_mib() -> None:
    assert len(png.decode_icc([zlib.compress(bytes(1 << 26))])) == 1 << 24


def test_bytes_after_iend_are_dropped_as_trailer() -> None:
    data = PLAIN + PLAIN
    assert kinds(data) == ["trailer"]
    assert clean(data) == PLAIN


@pytest.mark.parametrize("size_bytes", [len(PLAIN) // 2, 33])
def test_pieces_of_a_truncated_file_end_with_an_error(size_bytes: int) -> None:
    with pytest.raises(TruncatedImageError, match=f" {size_bytes} bytes"):
        clean(PLAIN[:size_bytes])


def test_a_damaged_image_chunk_is_invalid_but_a_damaged_comment_is_not() -> None:
    place = PLAIN.index(b"IDAT") + 10
    with pytest.raises(InvalidImageError, match="damaged IDAT"):
        clean(PLAIN[:place] + bytes([PLAIN[place] ^ 1]) + PLAIN[place + 1 :])
    damaged = png_chunk(b"tEXt", b"a\0b")[:-1] + b"\0"
    assert clean(insert_chunks(PLAIN, damaged)) == PLAIN


@pytest.mark.parametrize(
    "end",
    [b"", PLAIN[-12:-1], PLAIN[-12:-1] + b"\0", b"\0\0\0\0I\0ND", b"\0\0\1\0tEXt"],
    ids=["none", "cut", "checksum", "name", "cut text"],
)
def test_a_missing_or_damaged_end_mark_is_replaced(end: bytes) -> None:
    pieces = list(png.read_pieces(BytesIO(PLAIN[:-12] + end)))
    assert sum(piece.is_end_added for piece in pieces) == 1
    assert png.join(piece.clean for piece in pieces) == PLAIN


def test_bytes_in_the_end_mark_are_dropped() -> None:
    data = PLAIN[:-12] + png_chunk(b"IEND", b"private")
    assert kinds(data) == ["other"]
    assert clean(data) == PLAIN


@pytest.mark.parametrize(
    "name", [b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"pHYs", b"iCCP"]
)
def test_an_ancillary_chunk_with_a_wrong_checksum_is_dropped(name: bytes) -> None:
    damaged = png_chunk(name, b"p\0\0\1\0\1")[:-1] + b"\0"
    assert clean(insert_chunks(PLAIN, damaged)) == PLAIN


def test_exif_with_a_wrong_checksum_is_named_but_not_used() -> None:
    damaged = png_chunk(b"eXIf", planted_exif())[:-1] + b"\0"
    data = insert_chunks(PLAIN, damaged)
    assert kinds(data)[0] == "exif"
    assert not any(piece.exif for piece in png.read_pieces(BytesIO(data)))


def with_pixels(compressed: bytes, *more: bytes) -> bytes:
    chunks = b"".join(png_chunk(b"IDAT", part) for part in (compressed, *more))
    return SIGNATURE + HEADER + chunks + PLAIN[-12:]


COMPRESSED = PLAIN[41:-16]  # one chunk


@pytest.mark.parametrize(
    "data",
    [
        with_pixels(COMPRESSED + b"private"),
        with_pixels(COMPRESSED, b"private"),
        with_pixels(COMPRESSED[:99], COMPRESSED[99:] + b"private", b"private"),
        with_pixels(zlib.compress(zlib.decompress(COMPRESSED) + b"private" * 99, 0)),
        with_pixels(zlib.compress(zlib.decompress(COMPRESSED), 0)[:-4] + b"sum!"),
    ],
    ids=["same chunk", "next chunk", "split", "more rows", "checksum"],
)
def test_nothing_is_left_between_the_last_pixel_and_the_end(data: bytes) -> None:
    trimmed = png.trim(data)
    assert b"private" not in trimmed
    assert pixels(trimmed) == pixels(PLAIN)
    assert png.trim(trimmed) is trimmed


def test_missing_pixels_cannot_be_trimmed() -> None:
    rows = zlib.decompress(COMPRESSED)
    for data in (with_pixels(COMPRESSED[:-20]), with_pixels(zlib.compress(rows[:-1]))):
        with pytest.raises(TruncatedImageError):
            png.trim(data)


@pytest.mark.parametrize("unit", [png_chunk(b"prVt"), png_chunk(b"IDAT"), b"\xff\xff\xff\xffIDAT"])
def test_work_on_ten_hostile_megabytes_is_linear(unit: bytes) -> None:
    data = SIGNATURE + HEADER + unit * (10_000_000 // len(unit))
    started = time.process_time()
    with pytest.raises(InputError):
        clean(data)
    with suppress(InvalidImageError):  # with an IDAT chunk, the header is read without an error
        png.read_header(BytesIO(data))
    assert (
        time.process_time() - started < 10
    )  # usually half a second; quadratic time would be minutes


def test_pillow_reads_the_exif_piece() -> None:
    chunk = png.exif_piece(b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    data = insert_chunks(PLAIN, chunk)
    assert pixels(data) == pixels(PLAIN)
    with Image.open(BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6
