"""Data that an image's coded data hides behind the last pixel."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import imageprocessor as ip
from imageprocessor.errors import InvalidImageError, TruncatedImageError
from tests.images import (
    PHOTOGRAPHS,
    animated_webp,
    apng,
    encode,
    photo,
    png_chunk,
    riff,
    webp_chunk,
    webp_chunks,
)

PHOTO = photo(150, 100)
TRANSPARENT = PHOTO.copy()
TRANSPARENT.putalpha(photo(150, 100, seed=1).convert("L"))
FLAT = TRANSPARENT.point(lambda _: 90)

JPEGS = {
    "baseline": encode(PHOTO, "JPEG"),
    "progressive": encode(PHOTO, "JPEG", progressive=True),
    "CMYK": encode(PHOTO.convert("CMYK"), "JPEG"),
    "restart markers": encode(PHOTO, "JPEG", restart_marker_rows=1),
    "progressive with restart markers": encode(
        PHOTO, "JPEG", progressive=True, restart_marker_blocks=7
    ),
}
WEBPS = {
    "lossy": encode(PHOTO, "WEBP"),
    "lossless": encode(PHOTO, "WEBP", lossless=True),
    "lossy with alpha": encode(TRANSPARENT, "WEBP"),
    "animation": animated_webp(),
}
PNGS = {"PNG": encode(TRANSPARENT, "PNG"), "APNG": apng()}
TINY = {
    f"{width} × {height}, {'lossless' if lossless else 'lossy'}, effort {effort}": encode(
        image.resize((width, height)), "WEBP", lossless=lossless, method=effort, quality=100
    )
    for image in (FLAT, TRANSPARENT)
    for width, height in [(1, 1), (2, 1), (15, 17), (16, 16)]
    for lossless in (False, True)
    for effort in (0, 4, 6)
}


def noise(size_bytes: int) -> bytes:
    """Return bytes that are no marker, nor padding behind the last pixel of a JPEG."""
    return bytes(random.Random(0).choices(range(1, 200), k=size_bytes))


def hide_in_jpeg(data: bytes, surplus: bytes) -> bytes:
    return data[:-2] + surplus + data[-2:]


def hide_before_restart(data: bytes, surplus: bytes) -> bytes:
    return data.replace(b"\xff\xd2", surplus + b"\xff\xd2", 1)


def hide_in_webp(data: bytes, surplus: bytes, hiding: bytes) -> bytes:
    """Append the surplus to all chunks with this name, also to those within the frames."""
    chunks = []
    for name, payload in webp_chunks(data):
        if name == b"ANMF":
            frame = webp_chunks(payload, 16)
            hidden = [webp_chunk(inner, body + surplus) for inner, body in frame]
            chunks.append(webp_chunk(name, payload[:16] + b"".join(hidden)))
        else:
            chunks.append(webp_chunk(name, payload + surplus * (name == hiding)))
    return riff(*chunks)


@pytest.mark.parametrize(
    "data", [*JPEGS.values(), *WEBPS.values(), *PNGS.values()], ids=[*JPEGS, *WEBPS, *PNGS]
)
def test_a_good_file_passes(data: bytes) -> None:
    assert ip.strip_metadata(data, check_pixels=True) == ip.strip_metadata(data)


@pytest.mark.parametrize("data", TINY.values(), ids=TINY)
def test_a_tiny_or_flat_webp_passes(data: bytes) -> None:
    assert ip.strip_metadata(data, check_pixels=True) == data


def test_photographs_of_cameras_pass() -> None:
    limits = ip.Limits(max_bytes=1 << 30)
    for path in PHOTOGRAPHS:
        ip.strip_metadata(path, limits, check_pixels=True)


@pytest.mark.parametrize("size_bytes", [10, 100, 10_000])
@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_data_at_the_end_of_a_jpeg_is_refused(data: bytes, size_bytes: int) -> None:
    refuse_surplus(hide_in_jpeg, data, noise(size_bytes))


@pytest.mark.parametrize("size_bytes", [10, 100, 10_000])
@pytest.mark.parametrize("name", ["restart markers", "progressive with restart markers"])
def test_data_before_a_restart_marker_is_refused(name: str, size_bytes: int) -> None:
    refuse_surplus(hide_before_restart, JPEGS[name], noise(size_bytes))


@pytest.mark.parametrize("size_bytes", [10, 100, 10_000])
@pytest.mark.parametrize(
    ("name", "hiding"),
    [
        ("lossy", b"VP8 "),
        ("lossless", b"VP8L"),
        ("lossy with alpha", b"VP8 "),
        ("lossy with alpha", b"ALPH"),
        ("animation", b"VP8L"),
    ],
)
def test_data_at_the_end_of_a_chunk_is_refused(name: str, hiding: bytes, size_bytes: int) -> None:
    def hide(data: bytes, surplus: bytes) -> bytes:
        return hide_in_webp(data, surplus, hiding)

    refuse_surplus(hide, WEBPS[name], noise(size_bytes))


def test_a_second_image_that_decoders_ignore_is_refused() -> None:
    chunks = webp_chunks(WEBPS["lossy"])
    second = webp_chunks(encode(photo(20, 20), "WEBP"))
    data = riff(*(webp_chunk(name, payload) for name, payload in chunks + second))
    with pytest.raises(InvalidImageError):
        ip.strip_metadata(data, check_pixels=True)


def test_a_png_loses_the_data_and_passes() -> None:
    data = PNGS["PNG"]
    hidden = data[:-12] + png_chunk(b"IDAT", noise(100)) + data[-12:]
    assert ip.strip_metadata(hidden, check_pixels=True) == ip.strip_metadata(hidden)
    assert noise(100) not in ip.strip_metadata(hidden)


def test_missing_pixels_are_refused() -> None:
    cut = JPEGS["baseline"][:-500] + b"\xff\xd9"
    assert ip.strip_metadata(cut) == cut
    with pytest.raises(TruncatedImageError):
        ip.strip_metadata(cut, check_pixels=True)


def test_pixels_that_a_webp_lacks_are_refused() -> None:
    ((name, payload),) = webp_chunks(WEBPS["lossy"])
    with pytest.raises(InvalidImageError):
        ip.strip_metadata(riff(webp_chunk(name, payload[:-500])), check_pixels=True)


@pytest.mark.parametrize(
    "chunk",
    [(b"ALPH", b"\0" + bytes(9)), (b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + bytes(20))],
    ids=["alpha alone", "no width"],
)
def test_a_frame_without_an_image_is_refused(chunk: tuple[bytes, bytes]) -> None:
    frame = webp_chunk(b"ANMF", bytes(16) + webp_chunk(*chunk))
    data = bytearray(WEBPS["animation"] + frame)
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    with pytest.raises(InvalidImageError):
        ip.strip_metadata(data, check_pixels=True)


def refuse_surplus(hide: Callable[[bytes, bytes], bytes], data: bytes, surplus: bytes) -> None:
    """Assert that stripping keeps the surplus, and refuses it if it checks the pixels."""
    hidden = hide(data, surplus)
    assert surplus in ip.strip_metadata(hidden)
    with pytest.raises(InvalidImageError, match="there is image data behind its last pixel"):
        ip.strip_metadata(hidden, check_pixels=True)
