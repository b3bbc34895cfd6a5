from __future__ import annotations

import time
from io import BytesIO

import pytest
from PIL import Image

from imageprocessor.core.formats import webp
from imageprocessor.core.formats.container import Header
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.errors import InputError, InvalidImageError, TruncatedImageError
from tests.images import (
    SRGB_PROFILE,
    animated_webp,
    encode,
    photo,
    pixels,
    planted_exif,
    riff,
    truncated,
    webp_chunk,
    webp_chunks,
    webp_claiming,
)

LOSSY = encode(photo(40, 30), "WEBP")
LOSSLESS = encode(photo(40, 30), "WEBP", lossless=True)
ALPHA = encode(photo(40, 30).convert("RGBA").rotate(30), "WEBP")
EXTENDED = encode(photo(40, 30), "WEBP", icc_profile=SRGB_PROFILE)
EXIF_BLOCK = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def clean(data: bytes) -> bytes:
    return webp.join(piece.clean for piece in webp.read_pieces(BytesIO(data)))


def kinds(data: bytes) -> list[str]:
    return [kind for piece in webp.read_pieces(BytesIO(data)) for kind in piece.kinds]


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    return riff(data[12:], *chunks)


@pytest.mark.parametrize("data", [LOSSY, LOSSLESS, ALPHA, EXTENDED])
def test_the_header_of_every_kind_of_webp_is_read(data: bytes) -> None:
    assert webp.read_header(BytesIO(data)) == Header(40, 30, 1)


def test_the_header_has_the_size_that_the_canvas_declares() -> None:
    assert webp.read_header(BytesIO(webp_claiming(1 << 24, 1 << 24))) == Header(1 << 24, 1 << 24, 1)


@pytest.mark.parametrize("frames", [2, 5])
def test_frames_of_an_animation_are_counted(frames: int) -> None:
    assert webp.read_header(BytesIO(animated_webp(frames))) == Header(32, 24, frames)


@pytest.mark.parametrize("data", [LOSSY, LOSSLESS, ALPHA, EXTENDED])
def test_the_header_of_a_truncated_file_is_read(data: bytes) -> None:
    assert webp.read_header(BytesIO(truncated(data, 0.5))) == Header(40, 30, 1)


def test_only_complete_frames_of_a_truncated_animation_count() -> None:
    assert webp.read_header(BytesIO(truncated(animated_webp(4), 0.6))).frames == 2


@pytest.mark.parametrize("size_bytes", [11, 16, 29])
def test_a_file_that_ends_within_its_header_is_truncated(size_bytes: int) -> None:
    with pytest.raises(TruncatedImageError):
        webp.read_header(BytesIO(EXTENDED[:size_bytes]))


@pytest.mark.parametrize(
    "data",
    [
        riff(webp_chunk(b"ALPH", bytes(20))),
        riff(webp_chunk(b"VP8 ", LOSSY[20:28]), LOSSY[28:]),
        LOSSY[:23] + b"\0" + LOSSY[24:],
        LOSSLESS[:20] + b"\0" + LOSSLESS[21:],
        b"RIFX" + EXTENDED[4:],
    ],
)
def test_a_file_that_is_not_a_webp_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match="Re-encode it"):
        webp.read_header(BytesIO(data))


@pytest.mark.parametrize("data", [LOSSY, LOSSLESS, ALPHA, EXTENDED, animated_webp()])
def test_a_plain_webp_is_unchanged(data: bytes) -> None:
    assert clean(data) == data


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"EXIF", "exif"),
        (b"XMP ", "xmp"),
        (b"C2PA", "c2pa"),
        (b"prVt", "other"),
        (b"vp8 ", "other"),
    ],
)
@pytest.mark.parametrize("data", [LOSSY, EXTENDED])
def test_every_kind_of_metadata_is_named_and_dropped(name: bytes, kind: str, data: bytes) -> None:
    planted = with_chunks(data, webp_chunk(name, b"odd"))
    assert kind in kinds(planted)
    assert clean(planted) == data


def test_the_flags_match_the_remaining_chunks() -> None:
    flagged = bytearray(
        with_chunks(EXTENDED, webp_chunk(b"EXIF", planted_exif()), webp_chunk(b"XMP ", b"<x/>"))
    )
    flagged[20] |= 0x0C
    assert clean(bytes(flagged)) == EXTENDED
    with_exif = webp.join([EXTENDED[12:30], EXTENDED[30:], webp.exif_piece(EXIF_BLOCK)])
    assert with_exif[20] == EXTENDED[20] | 0x08
    with Image.open(BytesIO(with_exif)) as image:
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(("flag", "payload"), [(0x08, EXIF_BLOCK), (0, b"")])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_is_read_only_if_the_header_announces_it(
    flag: int, payload: bytes, prefix: bytes
) -> None:
    data = bytearray(with_chunks(EXTENDED, webp_chunk(b"EXIF", prefix + EXIF_BLOCK)))
    data[20] |= flag
    assert [
        piece.payload for piece in webp.read_pieces(BytesIO(data)) if "exif" in piece.kinds
    ] == [payload]


def test_only_the_image_of_an_animation_frame_is_kept() -> None:
    data = animated_webp()
    chunks = webp_chunks(data)
    place = next(index for index, (name, _) in enumerate(chunks) if name == b"ANMF")
    name, frame = chunks[place]
    chunks[place] = name, frame + webp_chunk(b"prVt", b"odd") + webp_chunk(b"EXIF", b"odd")
    noted = riff(*(webp_chunk(*chunk) for chunk in chunks))
    assert pixels(noted) == pixels(data)
    assert kinds(noted) == ["other"]
    assert clean(noted) == data


def test_bytes_hidden_after_fixed_fields_are_dropped() -> None:
    chunks = [
        (name, body + b"hidden" * (name in {b"VP8X", b"ANIM"}))
        for name, body in webp_chunks(animated_webp())
    ]
    assert clean(riff(*(webp_chunk(*chunk) for chunk in chunks))) == animated_webp()


def test_bytes_after_the_riff_are_dropped_as_trailer() -> None:
    data = LOSSY + LOSSY
    assert kinds(data) == ["trailer"]
    assert clean(data) == LOSSY


def test_a_profile_is_returned_unchanged() -> None:
    (profile,) = [
        piece.payload for piece in webp.read_pieces(BytesIO(EXTENDED)) if piece.kinds == ("icc",)
    ]
    assert webp.decode_icc([profile]) == SRGB_PROFILE


@pytest.mark.parametrize("size_bytes", [len(EXTENDED) - 2, len(EXTENDED) // 2, 33])
def test_pieces_of_a_truncated_file_end_with_an_error(size_bytes: int) -> None:
    with pytest.raises(TruncatedImageError, match=f" {size_bytes} bytes"):
        clean(EXTENDED[:size_bytes])


@pytest.mark.parametrize(
    "data",
    [
        riff(webp_chunk(b"VP8X", bytes(9))),
        riff(webp_chunk(b"VP8X", bytes(10)), webp_chunk(b"ANMF", bytes(15))),
        riff(webp_chunk(b"VP8X", bytes(10)), webp_chunk(b"ANMF", bytes(16) + b"VP8 \xff\0\0\0")),
        riff(b"VP8X\xff\0\0\0") + bytes(300),
    ],
)
def test_a_chunk_that_does_not_fit_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        clean(data)


@pytest.mark.parametrize(
    "unit", [webp_chunk(b"prVt", b""), webp_chunk(b"ANMF", bytes(16)), b"ANMF\xff\xff\xff\x7f"]
)
def test_work_on_ten_hostile_megabytes_is_linear(unit: bytes) -> None:
    data = riff(webp_chunk(b"VP8X", bytes(10)), unit * (10_000_000 // len(unit)))
    started = time.process_time()
    for read in (lambda: webp.read_header(BytesIO(data)), lambda: clean(data)):
        with pytest.raises(InputError):
            read()
    assert (
        time.process_time() - started < 10
    )  # usually half a second; quadratic time would be minutes


def test_an_image_that_the_encoder_rejects_is_not_a_memory_error() -> None:
    with pytest.raises(ValueError, match="encoding error 5"):
        webp.encode(Image.new("RGB", (16_384, 1)), Encoding(quality=80, effort=4))
