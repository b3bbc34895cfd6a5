from __future__ import annotations

import io
import tracemalloc
import warnings
import zlib
from contextlib import nullcontext

import PIL
import pytest
from PIL import Image

from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import ImageInfo, validate
from imageprocessor.errors import (
    DimensionTooLargeError,
    InvalidImageError,
    TooManyPixelsError,
    TruncatedImageError,
)
from tests.core.pngs import PALETTE, palette, row_png, transparency
from tests.hostile.files import many_scans
from tests.images import (
    animated_webp,
    apng,
    encode,
    first_scan,
    insert_chunks,
    insert_segments,
    jpeg_segment,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
    png_bomb,
    png_chunk,
    truncated,
)

SMALL = encode(photo(64, 48), "JPEG")
FILES = {
    "jpeg": SMALL,
    "progressive jpeg": encode(photo(64, 48), "JPEG", progressive=True),
    "cmyk jpeg": encode(photo(64, 48).convert("CMYK"), "JPEG"),
    "png": encode(photo(64, 48), "PNG"),
    "palette png": encode(photo(64, 48).quantize(16), "PNG"),
    "webp": encode(photo(64, 48), "WEBP"),
    "lossless webp": encode(photo(64, 48), "WEBP", lossless=True),
    "apng": apng(),
    "animated webp": animated_webp(),
    "planted jpeg": planted_jpeg(),
    "planted png": planted_png(),
    "planted webp": planted_webp(),
}


def decoded(data: bytes, info: ImageInfo | None = None, limits: Limits = Limits()) -> Image.Image:
    info = info or validate(data, limits)
    return decode(unpack(io.BytesIO(data), info), info, limits)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8, 0.97])
def test_truncated_file_is_reported(name: str, fraction: float) -> None:
    whole = FILES[name]
    info = validate(whole)
    image_bytes = len(whole) if "planted" not in name else len(whole) - 1000
    if name == "apng":
        image_bytes = whole.index(b"fcTL", whole.index(b"IDAT"))  # the first image
    with pytest.raises(TruncatedImageError):
        decoded(truncated(whole[:image_bytes], fraction), info)


def test_webp_without_its_last_bytes_is_truncated() -> None:
    with pytest.raises(TruncatedImageError):
        decoded(FILES["webp"][:-2])


@pytest.mark.parametrize("name", FILES)
def test_first_image_is_decoded_at_its_stored_size(name: str) -> None:
    info = validate(FILES[name])
    image = decoded(FILES[name])
    assert image.size == (info.width, info.height)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(row_png(4, 8, PALETTE, b"\0\1\2\3"), id="PNG without palette"),
        pytest.param(
            row_png(1, 8, PALETTE, b"\0", palette((1, 2, 3)), transparency(bytes(999))),
            id="too many alphas",
        ),
        pytest.param(row_png(1, 3, PALETTE, b"\0", palette((1, 2, 3))), id="invalid bit depth"),
        pytest.param(
            SMALL.replace(b"\xff\xdb", b"\xff\xe5"), id="JPEG without quantisation tables"
        ),
        pytest.param(
            SMALL.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), id="JPEG of 12 bits"
        ),
    ],
)
def test_decoder_exceptions_become_invalid_image_errors(damaged: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decoded(damaged)


def test_damaged_webp_is_invalid() -> None:
    data = bytearray(FILES["lossless webp"])
    data[40:200] = bytes(160)
    with pytest.raises(InvalidImageError, match="The WEBP cannot be decoded"):
        decoded(bytes(data))


def test_limits_are_checked_again_on_the_decoders_size() -> None:
    claimed = ImageInfo("PNG", "image/png", 10, 10, 1)
    with pytest.raises(TooManyPixelsError):
        decoded(png_bomb(9000, 9000), claimed)
    with pytest.raises(DimensionTooLargeError):
        decoded(png_bomb(70_000, 1), claimed)


def test_images_above_pillows_warning_limit_are_decoded_without_a_warning() -> None:
    large = encode(Image.new("1", (20_000, 5_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decoded(large, limits=Limits(max_pixels=100_000_000))
    assert image.size == (20_000, 5_000)


@pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow 12 has no such limit")
def test_webp_above_pillows_own_limit_has_too_many_pixels() -> None:
    header = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + (16_382).to_bytes(3, "little") * 2
    data = b"RIFF" + (4 + len(header)).to_bytes(4, "little") + b"WEBP" + header
    with pytest.raises(TooManyPixelsError, match="more pixels than its decoder accepts"):
        decoded(data, limits=Limits(max_pixels=300_000_000))


@pytest.mark.parametrize(
    "segment",
    [
        pytest.param(
            jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40), id="EXIF"
        ),
        pytest.param(jpeg_segment(0xE2, b"MPF\0nonsense"), id="index of images"),
        pytest.param(jpeg_segment(0xED, b"Photoshop 3.0\x008BIM"), id="IPTC"),
        pytest.param(jpeg_segment(0xE2, b"ICC_PROFILE\0"), id="ICC"),
        pytest.param(jpeg_segment(0xE0, b"JFIF\0"), id="JFIF"),
    ],
)
def test_damaged_metadata_neither_fails_nor_warns(segment: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decoded(insert_segments(SMALL, segment))
    assert image.size == (64, 48)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"acTL", bytes(8)),
        png_chunk(b"acTL", b"\0"),
        png_chunk(b"fcTL", b"\0"),
        png_chunk(b"fdAT", b""),
    ],
)
def test_damaged_animation_of_a_png_neither_fails_nor_warns(chunk: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decoded(insert_chunks(FILES["png"], chunk))
    assert image.tobytes() == photo(64, 48).tobytes()


@pytest.mark.parametrize("name", [b"acTL", b"fcTL", b"fdAT"])
def test_jpeg_data_that_looks_like_an_animation_is_kept(name: bytes) -> None:
    data_start = first_scan(SMALL)
    data = SMALL[:data_start] + bytes(4) + name + SMALL[data_start:]
    assert unpack(io.BytesIO(data), validate(data)).image.read() == data


def test_unpack_returns_orientation_and_kinds() -> None:
    data = planted_jpeg(orientation=8)
    unpacked = unpack(io.BytesIO(data), validate(data))
    assert unpacked.orientation == 8
    assert {"exif", "icc", "gain_map", "trailer"} <= unpacked.kinds


def test_damaged_exif_means_orientation_1() -> None:
    data = insert_segments(
        SMALL, jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    )
    assert unpack(io.BytesIO(data), validate(data)).orientation == 1


@pytest.mark.parametrize(
    ("name", "at_least", "size"),
    [
        ("jpeg", (33, 24), (64, 48)),
        ("jpeg", (32, 24), (32, 24)),
        ("jpeg", (16, 2), (16, 12)),
        ("progressive jpeg", (5, 5), (8, 6)),
        ("cmyk jpeg", (16, 12), (16, 12)),
        ("png", (8, 6), (64, 48)),
        ("webp", (8, 6), (64, 48)),
    ],
)
def test_jpeg_is_decoded_no_larger_than_needed(
    name: str, at_least: tuple[int, int], size: tuple[int, int]
) -> None:
    info = validate(FILES[name])
    image = decode(unpack(io.BytesIO(FILES[name]), info), info, Limits(), Dimensions(*at_least))
    assert image.size == size


def test_truncated_jpeg_is_detected_at_a_smaller_scale() -> None:
    info = validate(SMALL)
    cut = unpack(io.BytesIO(SMALL), info)._replace(image=io.BytesIO(SMALL[: len(SMALL) // 2]))
    with pytest.raises((TruncatedImageError, InvalidImageError)):
        decode(cut, info, Limits(), Dimensions(8, 6))


def test_many_compressed_profiles_cost_the_memory_of_one() -> None:
    bomb = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(16 << 20), 9))
    data = insert_chunks(FILES["png"], *[bomb] * 20)
    tracemalloc.start()
    decoded(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40 << 20


@pytest.mark.parametrize(("scans", "is_accepted"), [(20, True), (100, True), (101, False)])
def test_a_jpeg_may_have_at_most_100_scans(scans: int, is_accepted: bool) -> None:
    refusal = pytest.raises(InvalidImageError, match="more than 100 scans")
    with nullcontext() if is_accepted else refusal:
        decoded(many_scans(scans))
