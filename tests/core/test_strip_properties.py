"""Properties of a stripped file, whatever metadata was in it and wherever it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.core.metadata import read_metadata, strip_metadata
from imageprocessor.core.orientation import orientation_exif, read_orientation
from imageprocessor.core.validate import validate
from tests.images import (
    SRGB_PROFILE,
    animated_webp,
    apng,
    encode,
    insert_chunks,
    insert_segments,
    jpeg_segment,
    photo,
    pixels,
    planted_exif,
    planted_xmp,
    png_chunk,
    riff,
    webp_chunk,
    webp_chunks,
)

SMALL = photo(20, 14)
JPEGS = [
    encode(SMALL, "JPEG"),
    encode(SMALL, "JPEG", progressive=True, icc_profile=SRGB_PROFILE),
    encode(SMALL.convert("CMYK"), "JPEG"),
]
PNGS = [
    encode(SMALL, "PNG"),
    encode(SMALL.quantize(5), "PNG", transparency=2),
    encode(SMALL, "PNG", icc_profile=SRGB_PROFILE, dpi=(72, 72)),
    apng(2, (20, 14)),
]
WEBPS = [
    encode(SMALL, "WEBP", exif=orientation_exif(1)),
    encode(
        SMALL.convert("RGBA"),
        "WEBP",
        lossless=True,
        icc_profile=SRGB_PROFILE,
        exif=orientation_exif(1),
    ),
    animated_webp(2, (20, 14)),
]
ORIENTATION_BYTES = len(orientation_exif(6)) + 10  # the block and its segment or chunk header

payloads = st.binary(max_size=60)
exifs = st.one_of(
    payloads, st.integers(0, 9).map(orientation_exif), st.integers(1, 8).map(planted_exif)
)
tails = st.one_of(st.just(b""), payloads)

segments = st.one_of(
    st.builds(lambda exif: jpeg_segment(0xE1, b"Exif\0\0" + exif), exifs),
    st.builds(
        lambda xmp: jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        payloads | st.just(planted_xmp()),
    ),
    st.builds(lambda text: jpeg_segment(0xE0, b"JFXX\0" + text), payloads),
    st.builds(lambda index: jpeg_segment(0xE2, b"MPF\0" + index), payloads),
    st.builds(lambda data: jpeg_segment(0xED, b"Photoshop 3.0\0" + data), payloads),
    st.builds(jpeg_segment, st.sampled_from([*range(0xE3, 0xEE), 0xEF, 0xFE]), payloads),
)
chunks = st.one_of(
    st.builds(lambda exif: png_chunk(b"eXIf", exif), exifs),
    st.builds(
        png_chunk,
        st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"tIME", b"caBX", b"prVt", b"eXIf"]),
        payloads,
    ),
    st.builds(lambda text: png_chunk(b"iTXt", b"XML:com.adobe.xmp\0" + text), payloads),
    st.builds(lambda text: png_chunk(b"tEXt", b"Raw profile type exif\0" + text), payloads),
)
riff_chunks = st.one_of(
    st.builds(lambda exif: webp_chunk(b"EXIF", exif), exifs),
    st.builds(webp_chunk, st.sampled_from([b"XMP ", b"C2PA", b"prVt", b"    "]), payloads),
)


def put_into_webp(data: bytes, added: Sequence[bytes]) -> bytes:
    """Announce EXIF and XMP, and put the chunks after the image, where readers look for them."""
    (_, header), *others = webp_chunks(data)
    announced = bytes([header[0] | 0x0C]) + header[1:]
    return riff(
        webp_chunk(b"VP8X", announced),
        *(webp_chunk(*chunk) for chunk in others if chunk[0] != b"EXIF"),
        *added,
    )


def check(data: bytes, plain: bytes) -> None:
    clean = strip_metadata(data)
    assert validate(clean) == validate(data)
    assert pixels(clean) == pixels(plain)
    before, after = read_metadata(data), read_metadata(clean)
    assert after.orientation == before.orientation
    assert set(after.kinds) == ({"icc"} & set(before.kinds)) | (
        {"exif"} if before.orientation != 1 else set()
    )
    assert (after.icc, after.gps, after.camera, after.taken_at) == (before.icc, None, None, None)
    assert len(clean) <= len(data) + ORIENTATION_BYTES
    assert strip_metadata(clean) == clean


@given(st.sampled_from(JPEGS), st.lists(segments, max_size=6), tails)
def test_stripped_jpeg_has_the_same_pixels_and_no_metadata(
    plain: bytes, added: list[bytes], tail: bytes
) -> None:
    check(insert_segments(plain, *added) + tail, plain)


@given(
    st.sampled_from(PNGS), st.lists(chunks, max_size=6), st.sampled_from([b"IDAT", b"IEND"]), tails
)
def test_stripped_png_has_the_same_pixels_and_no_metadata(
    plain: bytes, added: list[bytes], place: bytes, tail: bytes
) -> None:
    check(insert_chunks(plain, *added, before=place) + tail, plain)


@given(st.sampled_from(WEBPS), st.lists(riff_chunks, max_size=6), tails)
def test_stripped_webp_has_the_same_pixels_and_no_metadata(
    plain: bytes, added: list[bytes], tail: bytes
) -> None:
    check(put_into_webp(plain, added) + tail, plain)


@given(
    st.sampled_from([(JPEGS[0], insert_segments), (PNGS[0], insert_chunks)]), st.integers(0, 65_535)
)
def test_strip_replaces_an_invalid_orientation_with_1(
    kind: tuple[bytes, Callable[..., bytes]], orientation: int
) -> None:
    plain, insert = kind
    block = orientation_exif(orientation)
    data = insert(
        plain,
        jpeg_segment(0xE1, b"Exif\0\0" + block)
        if plain[:1] == b"\xff"
        else png_chunk(b"eXIf", block),
    )
    found = read_metadata(strip_metadata(data)).orientation
    assert found == read_orientation(block) == (orientation if 1 <= orientation <= 8 else 1)
