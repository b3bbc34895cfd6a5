from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from imageprocessor.core.metadata import read_metadata
from imageprocessor.core.pipeline import process
from imageprocessor.core.position import exif_has_position, read_position, xmp_has_position
from tests.images import encode, insert_chunks, insert_segments, jpeg_segment, photo, png_chunk

PLAIN_PNG = encode(photo(9, 9), "PNG")
PLAIN_JPEG = encode(photo(9, 9), "JPEG")
XMP = b'<rdf:Description exif:GPSLatitude="33,51.6S" exif:GPSLongitude="151,12.7E"/>'


def gps_exif(gps: dict[int, object]) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    return exif.tobytes().removeprefix(b"Exif\0\0")


HERE = gps_exif({1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 42.0)})
NOWHERE = gps_exif({0: b"\2\3\0\0", 5: 0})
RAW_PROFILE = (
    b"\nexif\n%8d\n" % (6 + len(HERE)) + (b"Exif\0\0" + HERE).hex("\n", 36).encode() + b"\n"
)


def unknown(exif: bytes, *values: int) -> bytes:
    """Return an EXIF block in which the rational numbers of these values are 0/0."""
    for value in values:
        for order in "<>":
            known = struct.pack(f"{order}II", value, 1)
            exif = exif.replace(known, bytes(8))
    return exif


def unannounced(webp: bytes) -> bytes:
    """Clear the flag with which a WebP announces EXIF.

    Decoders then do not look for EXIF, but other programs may.
    """
    return webp[:20] + bytes([webp[20] & ~0x08]) + webp[21:]


def test_position_is_in_signed_degrees() -> None:
    assert read_position(HERE) == pytest.approx((-33.86, 151.21166), abs=1e-4)


def test_position_in_signed_rationals_is_read() -> None:
    signed = HERE.replace(b"\x00\x02\x00\x05", b"\x00\x02\x00\x0a").replace(
        b"\x00\x04\x00\x05", b"\x00\x04\x00\x0a"
    )
    assert signed != HERE
    assert read_position(signed) == read_position(HERE)


def test_unknown_minutes_and_seconds_count_as_0() -> None:
    assert read_position(unknown(HERE, 36, 42)) == pytest.approx((-33.85, 151.2), abs=1e-4)
    assert read_position(unknown(HERE, 51, 36, 12, 42)) == (-33.0, 151.0)


def test_unknown_degrees_are_no_position_but_known_minutes_are_reported() -> None:
    minutes = unknown(HERE, 33, 151)
    assert read_position(minutes) is None
    assert exif_has_position(minutes)
    assert not exif_has_position(unknown(HERE, 33, 51, 36))


@pytest.mark.parametrize("exif", [b"", b"nonsense", NOWHERE, HERE[: len(HERE) // 2]])
def test_gps_tags_without_a_position_are_none(exif: bytes) -> None:
    assert read_position(exif) is None


@pytest.mark.parametrize(
    ("xmp", "expected"),
    [
        (XMP, True),
        (
            (
                b"<exif:GPSLatitude>33,51.6S</exif:GPSLatitude>\n"
                b"<exif:GPSLongitude> 151,12E</exif:GPSLongitude>"
            ),
            True,
        ),
        (b"<x exif:GPSLatitude = '3N' exif:GPSLongitude='4E'/>", True),
        (b'<x exif:GPSLatitude="33,51.6S"/>', False),
        (b'<x exif:GPSLatitude="" exif:GPSLongitude=""/>', False),
        (
            b'<x exif:GPSVersionID="2.2.0.0" exif:GPSLatitudeRef="0" exif:GPSLongitudeRef="0"/>',
            False,
        ),
    ],
)
def test_xmp_has_a_position_if_it_has_both_numbers(xmp: bytes, expected: bool) -> None:
    assert xmp_has_position(xmp) is expected


@pytest.mark.parametrize(
    "data",
    [
        insert_segments(PLAIN_JPEG, jpeg_segment(0xE1, b"Exif\0\0" + HERE)),
        insert_segments(PLAIN_JPEG, jpeg_segment(0xE1, b"Exif\0\0" + unknown(HERE, 36, 42))),
        insert_segments(PLAIN_JPEG, jpeg_segment(0xE1, b"Exif\0\0" + unknown(HERE, 33, 151))),
        insert_segments(PLAIN_JPEG, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        insert_chunks(PLAIN_PNG, png_chunk(b"eXIf", HERE)),
        insert_chunks(PLAIN_PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        insert_chunks(
            PLAIN_PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP))
        ),
        insert_chunks(
            PLAIN_PNG, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE))
        ),
        insert_chunks(PLAIN_PNG, png_chunk(b"tEXt", b"Raw profile type APP1\0" + RAW_PROFILE)),
        encode(photo(9, 9), "WEBP", exif=HERE),
        encode(photo(9, 9), "WEBP", xmp=XMP),
        unannounced(encode(photo(9, 9), "WEBP", exif=HERE)),
    ],
)
def test_a_position_is_reported_wherever_it_is(data: bytes) -> None:
    assert "gps" in read_metadata(data).kinds
    assert "gps" in process(data).removed


@pytest.mark.parametrize(
    "data",
    [
        insert_segments(PLAIN_JPEG, jpeg_segment(0xE1, b"Exif\0\0" + NOWHERE)),
        insert_chunks(PLAIN_PNG, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + b"not zlib")),
        insert_chunks(PLAIN_PNG, png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nzz\xff\n")),
        insert_chunks(PLAIN_PNG, png_chunk(b"tEXt", b"Raw profile type exif")),
        insert_chunks(PLAIN_PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0")),
        insert_chunks(PLAIN_PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp")),
    ],
)
def test_no_position_is_reported_if_there_is_none(data: bytes) -> None:
    assert process(data).removed in {("exif",), ("xmp",)}


def test_compressed_text_is_read_only_up_to_a_plausible_length() -> None:
    late = zlib.compress(bytes(10_000_000) + XMP)
    data = insert_chunks(PLAIN_PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + late))
    assert process(data).removed == ("xmp",)
