from __future__ import annotations

from io import BytesIO

import pytest

from imageprocessor.core.formats.registry import FORMATS, ImageFormat
from imageprocessor.core.formats.sniff import sniff
from imageprocessor.core.limits import Limits
from imageprocessor.errors import EmptyFileError, UnsupportedTypeError
from tests.images import apng, encode, photo, planted_jpeg


@pytest.mark.parametrize("image_format", FORMATS.values(), ids=FORMATS)
def test_each_format_is_recognized_and_the_file_is_rewound(
    image_format: ImageFormat,
) -> None:
    file = BytesIO(encode(photo(8, 8), image_format.name))
    file.seek(5)
    assert sniff(file, Limits()) is image_format
    assert file.tell() == 0


def test_an_animated_png_is_a_png() -> None:
    assert sniff(BytesIO(apng()), Limits()) is FORMATS["PNG"]


def test_a_multi_picture_jpeg_is_a_jpeg() -> None:
    assert sniff(BytesIO(planted_jpeg()), Limits()) is FORMATS["JPEG"]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(EmptyFileError, match="0 bytes"):
        sniff(BytesIO(), Limits())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode(photo(8, 8), "GIF"), "image/gif"),
        (encode(photo(8, 8), "BMP"), "image/bmp"),
        (b"%PDF-1.7", "application/pdf"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown type"),
        (b"\xff\xd8", "unknown type"),
    ],
)
def test_other_files_are_refused_with_their_type_and_the_accepted_ones(
    data: bytes, name: str
) -> None:
    with pytest.raises(UnsupportedTypeError, match=f"{name}.*image/jpeg, image/png, image/webp"):
        sniff(BytesIO(data), Limits())


def test_a_format_that_the_limits_exclude_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"image/png\. Send one of image/jpeg\."):
        sniff(BytesIO(encode(photo(8, 8), "PNG")), Limits(mime_types=frozenset({"image/jpeg"})))
