from __future__ import annotations

import time
from io import BytesIO

import pytest
from PIL import Image

from imageprocessor.core.formats import jpeg
from imageprocessor.core.formats.container import MAX_PIECES, Header
from imageprocessor.errors import InputError, InvalidImageError, TruncatedImageError
from tests.images import (
    SRGB_PROFILE,
    encode,
    insert_segments,
    jpeg_claiming,
    jpeg_segment,
    photo,
    pixels,
    planted_jpeg,
    truncated,
)

PLAIN = encode(photo(40, 30), "JPEG")
COMMENT = jpeg_segment(0xFE, b"hello")


def clean(data: bytes) -> bytes:
    return jpeg.join(piece.clean for piece in jpeg.read_pieces(BytesIO(data)))


def kinds(data: bytes) -> list[str]:
    return [kind for piece in jpeg.read_pieces(BytesIO(data)) for kind in piece.kinds]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_header_of_every_kind_of_jpeg_is_read(mode: str, options: dict[str, int]) -> None:
    data = encode(photo(40, 30).convert(mode), "JPEG", **options)
    assert jpeg.read_header(BytesIO(data)) == Header(40, 30, 1)
    assert pixels(clean(data)) == pixels(data)


def test_the_header_has_the_size_that_the_frame_declares() -> None:
    assert jpeg.read_header(BytesIO(jpeg_claiming(65_000, 64_000))) == Header(65_000, 64_000, 1)


def test_a_preview_inside_exif_is_not_mistaken_for_the_image() -> None:
    assert jpeg.read_header(BytesIO(planted_jpeg(photo(64, 48)))) == Header(64, 48, 1)


def test_the_header_of_a_truncated_file_is_read() -> None:
    assert jpeg.read_header(BytesIO(truncated(PLAIN, 0.7))) == Header(40, 30, 1)


def test_a_file_that_ends_before_its_frame_header_is_truncated() -> None:
    message = "ends after 30 bytes, before the image does. Send the whole file"
    with pytest.raises(TruncatedImageError, match=message):
        jpeg.read_header(BytesIO(PLAIN[:30]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xd9", "no valid frame header"),
        (b"\xff\xd8" + jpeg_segment(0xDA, bytes(10)), "no valid frame header"),
        (b"\xff\xd8\xff\x02\0\2", "marker 0xFF02"),
        (b"\xff\xd8\xff\xd8", "marker 0xFFD8"),
        (b"\xff\xd8\xff\xe0\0\1", "length 1"),
        (b"\xff\xd7\xff\xe0", "does not start like a JPEG"),
        (
            b"\xff\xd8"
            + 2 * jpeg_segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0")
            + jpeg_segment(0xDA, b""),
            "no valid frame header",
        ),
        (
            b"\xff\xd8" + jpeg_segment(0xC0, b"\x08\0\1") + b"\0\1" + jpeg_segment(0xDA, b""),
            "no valid frame header",
        ),
    ],
)
def test_a_file_that_is_not_a_jpeg_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        jpeg.read_header(BytesIO(data))


def test_fill_and_stray_bytes_between_segments_are_skipped() -> None:
    data = insert_segments(PLAIN, b"\xff" * 7, COMMENT, b"stray\xff\0\xff", COMMENT)
    assert jpeg.read_header(BytesIO(data)) == Header(40, 30, 1)
    assert pixels(data) == pixels(PLAIN)
    assert clean(data) == PLAIN


@pytest.mark.parametrize("distance", [509, 510, 511, 512, 1534, 1535, 1536, 70_000, 200_000])
def test_a_marker_across_a_block_boundary_is_found(distance: int) -> None:
    data = insert_segments(PLAIN, bytes(distance), COMMENT)
    assert kinds(data) == ["comment"]
    assert clean(data) == PLAIN


def test_a_plain_jpeg_is_unchanged() -> None:
    assert clean(PLAIN) == PLAIN


def test_a_comment_between_scans_is_dropped() -> None:
    plain = encode(photo(40, 30), "JPEG", progressive=True)
    second_scan = plain.rindex(b"\xff\xda")
    data = plain[:second_scan] + COMMENT + plain[second_scan:]
    assert clean(data) == plain


def test_the_jfif_header_is_kept_without_its_thumbnail() -> None:
    jfif = PLAIN[6:18]
    data = insert_segments(PLAIN[:2] + PLAIN[20:], jpeg_segment(0xE0, jfif + b"\2\1" + b"abcdef"))
    assert kinds(data) == ["thumbnail"]
    assert clean(data) == PLAIN


def test_adobes_colour_transform_is_kept_without_the_bytes_after_it() -> None:
    plain = encode(photo(40, 30).convert("CMYK"), "JPEG")
    place = plain.index(b"\xff\xee")
    adobe = plain[place + 4 : place + 16]
    data = plain[:place] + jpeg_segment(0xEE, adobe + b"private") + plain[place + 16 :]
    assert clean(data) == plain


def test_an_icc_profile_in_parts_is_kept_byte_for_byte() -> None:
    profile = SRGB_PROFILE + bytes(range(256)) * 300
    data = encode(photo(8, 8), "JPEG", icc_profile=profile)
    assert (
        jpeg.decode_icc([piece.payload for piece in jpeg.read_pieces(BytesIO(data)) if piece.kinds])
        == profile
    )
    assert clean(data) == data


@pytest.mark.parametrize(
    ("marker", "payload", "kind"),
    [
        (0xE0, b"JFXX\0\x10", "thumbnail"),
        (0xE0, b"JFIF\0\1\1", "other"),
        (0xE1, b"Exif\0\0MM", "exif"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>", "xmp"),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "xmp"),
        (0xE1, b"something else", "other"),
        (0xE2, b"MPF\0MM", "mpf"),
        (0xE2, b"urn:iso:std:iso:ts:21496:-1\0", "gain_map"),
        (0xE2, b"FPXR\0", "other"),
        (0xEB, b"JP\0\1", "c2pa"),
        (0xED, b"Photoshop 3.0\x008BIM", "iptc"),
        (0xEE, b"not Adobe", "other"),
        (0xEF, b"", "other"),
        (0xFE, b"", "comment"),
        (0xDC, b"\0\x1e", "other"),
    ],
)
def test_every_kind_of_metadata_is_named_and_dropped(
    marker: int, payload: bytes, kind: str
) -> None:
    data = insert_segments(PLAIN, jpeg_segment(marker, payload))
    assert kinds(data) == [kind]
    assert clean(data) == PLAIN


@pytest.mark.parametrize("mark", [b"hdrgm:Version", b"HDRGainMap"])
def test_a_gain_map_is_recognized_by_xmp_in_the_image_or_the_trailer(mark: bytes) -> None:
    xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x " + mark + b"='1.0'/>")
    assert kinds(insert_segments(PLAIN, xmp)) == ["xmp", "gain_map"]
    assert kinds(PLAIN + insert_segments(PLAIN, xmp)) == ["trailer", "gain_map"]


def test_bytes_after_the_end_are_dropped_as_trailer() -> None:
    data = PLAIN + b"\0\0\0\x18ftypmp42"
    assert kinds(data) == ["trailer"]
    assert clean(data) == PLAIN


def test_pieces_of_a_file_that_ends_before_its_first_scan_end_with_an_error() -> None:
    with pytest.raises(TruncatedImageError, match=" 200 bytes"):
        clean(PLAIN[:200])


@pytest.mark.parametrize(
    "trailer",
    [b"", b"\xff", b"\xff\x02junk", b"\xff\xe1", b"\xff\xe1\xff\xffjunk", PLAIN],
    ids=["nothing", "half a mark", "unknown", "cut", "too long", "second image"],
)
def test_a_missing_end_mark_is_added_after_the_last_valid_part(trailer: bytes) -> None:
    data = PLAIN[:-2] + trailer
    pieces = list(jpeg.read_pieces(BytesIO(data)))
    assert sum(piece.is_end_added for piece in pieces) == 1
    assert jpeg.join(piece.clean for piece in pieces).rstrip(b"\xff\xd9") == PLAIN[:-2].rstrip(
        b"\xff\xd9"
    )


def test_a_tem_marker_is_passed_over() -> None:
    scan = PLAIN.index(b"\xff\xda")
    data = insert_segments(PLAIN[:scan] + b"\xff\x01" + PLAIN[scan:], b"\xff\x01", COMMENT)
    assert jpeg.read_header(BytesIO(data)) == Header(40, 30, 1)
    assert clean(data[:-2] + b"\xff\x01\xff\xd9") == PLAIN


@pytest.mark.parametrize(
    "unit", [b"\xff\xe0\0\2", b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xda\0\2", b"\0"]
)
def test_work_on_ten_hostile_megabytes_is_linear(unit: bytes) -> None:
    data = b"\xff\xd8" + unit * (10_000_000 // len(unit))
    started = time.process_time()
    for read in (lambda: jpeg.read_header(BytesIO(data)), lambda: clean(data)):
        with pytest.raises(InputError):
            read()
    assert (
        time.process_time() - started < 10
    )  # usually half a second; quadratic time would be minutes


def test_too_many_segments_are_invalid() -> None:
    with pytest.raises(InvalidImageError, match=f"more than {MAX_PIECES}"):
        jpeg.read_header(BytesIO(insert_segments(PLAIN, b"\xff\xe0\0\2" * MAX_PIECES)))


def test_pillow_reads_the_exif_piece() -> None:
    data = insert_segments(
        PLAIN, jpeg.exif_piece(b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    )
    with Image.open(BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6
