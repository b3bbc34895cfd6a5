from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name

import pytest
from PIL.ImageFile import ImageFile

from imageprocessor.core.formats.registry import (
    FORMATS,
    OUTPUT_FORMATS,
    ImageFormat,
    find_output,
    list_default_mime_types,
    list_installed_mime_types,
    list_mime_types,
    list_suffixes,
)
from imageprocessor.core.limits import Limits
from imageprocessor.errors import MissingExtraError

INSTALLED = {name: row for name, row in FORMATS.items() if row.is_installed}
each_format = pytest.mark.parametrize("image_format", INSTALLED.values(), ids=INSTALLED)


def test_mime_types_are_the_registered_ones() -> None:
    assert list_default_mime_types() == ("image/jpeg", "image/png", "image/webp")
    assert list_mime_types() == (
        *list_default_mime_types(),
        "image/gif",
        "image/avif",
        "image/heic",
    )


def test_a_format_whose_extra_is_not_installed_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FORMATS, "HEIC", replace(FORMATS["HEIC"], package="not_installed"))
    assert list_installed_mime_types() == list_mime_types()[:-1]
    with pytest.raises(MissingExtraError, match=r"HEIC \(image/heic\) needs an extra") as error:
        Limits(mime_types=frozenset({"image/heic"}))
    assert error.value.extra == "heic"
    Limits(mime_types=frozenset({"image/avif"}))


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
