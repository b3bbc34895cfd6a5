from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import ImageInfo, validate
from imageprocessor.errors import (
    DimensionTooLargeError,
    EmptyFileError,
    FileTooLargeError,
    InputError,
    InvalidImageError,
    TooManyPixelsError,
    TruncatedImageError,
    UnsupportedTypeError,
)
from tests.images import (
    animated_webp,
    apng,
    each_photograph,
    encode,
    insert_segments,
    jpeg_claiming,
    jpeg_segment,
    needs_photographs,
    oriented,
    photo,
    planted_jpeg,
    png_bomb,
    truncated,
    webp_claiming,
)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_header_is_returned(image_format: str, tmp_path: Path) -> None:
    data = encode(photo(40, 30), image_format)
    path = tmp_path / "image.txt"
    path.write_bytes(data)
    info = ImageInfo(image_format, f"image/{image_format.lower()}", 40, 30, 1)
    assert (
        validate(data) == validate(path) == validate(str(path)) == validate(BytesIO(data)) == info
    )


def test_format_is_a_plain_string() -> None:
    assert repr(validate(png_bomb(2, 3))) == (
        "ImageInfo(format='PNG', mime_type='image/png', width=2, height=3, frames=1, duration=None)"
    )


def test_width_and_height_are_as_stored() -> None:
    info = validate(oriented(photo(40, 30), 6))
    assert (info.width, info.height) == (30, 40)


def test_a_jpeg_with_a_second_image_has_one_frame() -> None:
    data = planted_jpeg(photo(64, 48))
    with Image.open(BytesIO(data)) as image:
        assert image.format == "MPO"
    assert validate(data) == ImageInfo("JPEG", "image/jpeg", 64, 48, 1)


def test_frames_of_animations_are_counted() -> None:
    assert validate(apng(4)).frames == validate(animated_webp(4)).frames == 4


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_passes_until_it_is_decoded(image_format: str) -> None:
    assert validate(truncated(encode(photo(400, 300), image_format), 0.5)).width == 400


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyFileError),
        (b"%PDF-1.7 and more", UnsupportedTypeError),
        (encode(photo(8, 8), "GIF"), UnsupportedTypeError),
        (png_bomb(65_536, 1), DimensionTooLargeError),
        (png_bomb(0x7FFF_FFFF, 0x7FFF_FFFF), DimensionTooLargeError),
        (png_bomb(0, 5), InvalidImageError),
        (png_bomb(65_535, 65_535), TooManyPixelsError),
        (jpeg_claiming(65_535, 65_535), TooManyPixelsError),
        (jpeg_claiming(0, 5), InvalidImageError),
        (webp_claiming(16_383, 16_383), TooManyPixelsError),
        (webp_claiming(1 << 24, 1), DimensionTooLargeError),
        (b"\xff\xd8\xff\xe0", TruncatedImageError),
        (b"\x89PNG\r\n\x1a\n", TruncatedImageError),
        (b"\x89PNGnonsense" + bytes(40), InvalidImageError),
    ],
)
def test_unacceptable_files_are_refused_by_their_header(
    data: bytes, error: type[InputError]
) -> None:
    with pytest.raises(error):
        validate(data)


def test_a_bomb_after_a_small_frame_header_is_refused() -> None:
    frame = jpeg_segment(0xC0, b"\x08\0\x10\0\x10\3\1\x11\0\2\x11\0\3\x11\0")
    with pytest.raises(InvalidImageError, match="SOF"):
        validate(insert_segments(jpeg_claiming(60_000, 60_000), frame))


def test_size_is_checked_first() -> None:
    limits = Limits(max_bytes=10, mime_types=frozenset())
    with pytest.raises(FileTooLargeError):
        validate(png_bomb(65_536, 65_536), limits)


def test_the_callers_limits_are_used() -> None:
    data = encode(photo(40, 30), "PNG")
    assert validate(data, Limits(max_pixels=1200, max_side=40)).width == 40
    with pytest.raises(TooManyPixelsError):
        validate(data, Limits(max_pixels=1199))
    with pytest.raises(DimensionTooLargeError):
        validate(data, Limits(max_side=39))


class CountingFile(BytesIO):
    """A file that counts the bytes read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.mark.parametrize(
    "data", [encode(photo(800, 600), "PNG"), planted_jpeg(photo(800, 600)), animated_webp(9)]
)
def test_only_the_header_is_read(data: bytes) -> None:
    file = CountingFile(data)
    validate(file)
    assert file.count < 8192 + 20_000


@needs_photographs
@each_photograph
def test_real_photographs_have_the_size_that_pillow_reads(path: Path) -> None:
    with Image.open(path) as image:
        assert (validate(path).width, validate(path).height) == image.size


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [([40, 40, 40], 0.12), ([0, 10, 20], 0.22), ([1500, 30, 20], 1.55)]
)
def test_the_duration_of_an_animation_is_what_browsers_take(
    image_format: str, milliseconds: list[int], seconds: float
) -> None:
    first, *others = [photo(8, 6, seed) for seed in range(3)]
    options: dict[str, Any] = {"save_all": True, "append_images": others}
    info = validate(encode(first, image_format, duration=milliseconds, **options))
    assert (info.frames, info.duration) == (3, seconds)


def test_a_damaged_chunk_declares_no_animation() -> None:
    data = apng(2)
    place = data.index(b"acTL") + 12
    assert validate(data[:place] + b"\0" + data[place + 1 :]).frames == 1
