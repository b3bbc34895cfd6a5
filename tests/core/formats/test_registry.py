from __future__ import annotations

from pkgutil import resolve_name

import pytest
from PIL.ImageFile import ImageFile

from imageprocessor.core.formats.registry import (
    FORMATS,
    OUTPUT_FORMATS,
    ImageFormat,
    find_output,
    list_mime_types,
    list_suffixes,
)

each_format = pytest.mark.parametrize("image_format", FORMATS.values(), ids=FORMATS)


def test_mime_types_are_the_registered_ones() -> None:
    assert list_mime_types() == ("image/jpeg", "image/png", "image/webp")


@each_format
def test_the_decoder_is_pillows_class_for_the_format(image_format: ImageFormat) -> None:
    decoder = resolve_name(image_format.decoder)
    assert issubclass(decoder, ImageFile)
    assert decoder.format == image_format.name


def test_each_suffix_and_mime_type_belongs_to_one_format() -> None:
    mime_types = [kind for row in FORMATS.values() for kind in row.mime_types]
    assert len(set(mime_types)) == len(mime_types)
    assert len(set(list_suffixes())) == len(list_suffixes())
    assert all(suffix.startswith(".") for suffix in list_suffixes())


def test_each_output_format_can_be_encoded_and_is_known_by_its_suffixes() -> None:
    assert list(OUTPUT_FORMATS) == ["avif", "webp", "jpeg", "png"]
    for image_format in OUTPUT_FORMATS.values():
        assert image_format.encode is not None
        for suffix in image_format.suffixes:
            assert find_output(f"photo{suffix}") is image_format
            assert find_output(f"PHOTO{suffix.upper()}") is image_format
    assert find_output("webp") is None
