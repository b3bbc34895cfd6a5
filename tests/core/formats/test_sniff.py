from __future__ import annotations

from io import BytesIO

import pytest

from imageprocessor.core.formats.registry import (
    FORMATS,
    ImageFormat,
    list_default_mime_types,
    list_mime_types,
)
from imageprocessor.core.formats.sniff import sniff
from imageprocessor.errors import EmptyFileError, UnsupportedTypeError
from tests.heif import box
from tests.images import apng, encode, photo, planted_jpeg

ACCEPTED = list_default_mime_types()


@pytest.mark.parametrize("image_format", FORMATS.values(), ids=FORMATS)
def test_each_format_is_recognized_and_the_file_is_rewound(image_format: ImageFormat) -> None:
    data = box(b"ftyp", b"mif1", bytes(4), *image_format.brands[:1])
    if not image_format.brands:
        data = encode(photo(8, 8), image_format.name)
    file = BytesIO(data)
    file.seek(5)
    assert sniff(file, list_mime_types()) is image_format
    assert file.tell() == 0


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        ("avif mif1 miaf", "AVIF"),
        ("avis msf1 avif", "AVIF"),
        ("mif1 miaf MA1B avif", "AVIF"),
        ("heic mif1", "HEIC"),
        ("mif1 heic", "HEIC"),
        ("mif1 MiHB heix tmap", "HEIC"),
        ("msf1 hevc", "HEIC"),
        ("heim mif1", "HEIC"),
        ("avif heic", "AVIF"),
        ("heic avif", "HEIC"),
    ],
)
def test_avif_and_heic_are_told_apart_by_all_brands(brands: str, name: str) -> None:
    major, *compatible = brands.encode().split()
    data = box(b"ftyp", major, bytes(4), *compatible)
    assert sniff(BytesIO(data), list_mime_types()) is FORMATS[name]


@pytest.mark.parametrize(
    "brands", ["mif1 miaf", "isom mp42", "crx isom", "jxl isom", "mif1", "mif1 jpeg"]
)
def test_other_files_of_boxes_are_neither(brands: str) -> None:
    major, *compatible = brands.encode().split()
    data = box(b"ftyp", major.ljust(4), bytes(4), *compatible)
    with pytest.raises(UnsupportedTypeError):
        sniff(BytesIO(data), list_mime_types())


def test_an_animated_png_is_a_png() -> None:
    assert sniff(BytesIO(apng()), ACCEPTED) is FORMATS["PNG"]


def test_a_multi_picture_jpeg_is_a_jpeg() -> None:
    assert sniff(BytesIO(planted_jpeg()), ACCEPTED) is FORMATS["JPEG"]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(EmptyFileError, match="0 bytes"):
        sniff(BytesIO(), ACCEPTED)


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
        sniff(BytesIO(data), ACCEPTED)


def test_a_format_that_the_limits_exclude_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"image/png\. Send one of image/jpeg\."):
        sniff(BytesIO(encode(photo(8, 8), "PNG")), {"image/jpeg"})
