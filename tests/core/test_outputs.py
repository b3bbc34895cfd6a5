"""Variants in other formats than WebP, and in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from imageprocessor.core.formats import avif_encoder
from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.core.metadata import strip_metadata
from imageprocessor.core.pipeline import process, transform
from imageprocessor.core.variants import Variant, VariantSpec
from imageprocessor.errors import InvalidVariantError
from tests.images import (
    SENTINELS,
    SRGB_PROFILE,
    encode,
    oriented,
    photo,
    planted_jpeg,
    planted_png,
)

OUTPUTS = ("avif", "webp", "jpeg", "png")
PILLOW_NAMES = {"avif": "AVIF", "webp": "WEBP", "jpeg": "JPEG", "png": "PNG"}
PHOTO = encode(photo(90, 60), "JPEG")


def open_variant(variant: Variant) -> Image.Image:
    return Image.open(BytesIO(variant.data))


def make(data: bytes, **options: Any) -> Variant:
    return process(data, [VariantSpec("it", **options)], threads=1).variants["it"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_variant_has_the_requested_format(output: str) -> None:
    variant = make(PHOTO, width=30, format=output)
    with open_variant(variant) as opened:
        assert (opened.format, opened.size) == (PILLOW_NAMES[output], (30, 20))
    assert (variant.format, variant.alternates) == (output, ())
    assert variant.describe()["format"] == output
    assert transform(PHOTO, "w_30", format=output).data == variant.data


@pytest.mark.parametrize("options", [{}, {"sepia": True}], ids=["plain", "transformed"])
def test_alternates_are_the_same_image_in_other_formats(options: dict[str, Any]) -> None:
    several = make(PHOTO, width=30, formats=OUTPUTS, **options)
    assert (several.format, [each.format for each in several.alternates]) == (
        "avif",
        ["webp", "jpeg", "png"],
    )
    for file in (several, *several.alternates):
        assert file.data == make(PHOTO, width=30, format=file.format, **options).data
        assert (file.width, file.height) == (30, 20)


def test_alternates_are_described_and_named_after_their_size() -> None:
    specs = [VariantSpec("a", width=30, formats=("avif", "webp")), VariantSpec("b", width=9)]
    result = process(PHOTO, specs, threads=1)
    described = result.describe()["variants"]
    [alternate] = described["a"]["alternates"]
    assert alternate == {
        "width": 30,
        "height": 20,
        "aspect_ratio": 1.5,
        "format": "webp",
        "size_bytes": result.variants["a"].alternates[0].size_bytes,
    }
    assert "alternates" not in described["b"]
    assert {name: file.format for name, file in result.files.items()} == {
        "a": "avif",
        "a.webp": "webp",
        "b": "webp",
    }


@pytest.mark.parametrize(("output", "quality"), [("webp", 85), ("jpeg", 85), ("avif", 60)])
def test_each_format_has_its_own_default_quality(output: str, quality: int) -> None:
    expected = make(PHOTO, width=30, format=output, quality=quality)
    assert make(PHOTO, width=30, format=output) == expected
    assert make(PHOTO, width=30, format=output, quality=quality - 20) != expected
    lower = make(PHOTO, width=30, format=output, webp_quality=40)
    assert (lower == expected) == (output != "webp")


def test_a_png_loses_nothing() -> None:
    icon = photo(40, 30).convert("RGBA")
    icon.putalpha(Image.linear_gradient("L").resize(icon.size))
    variant = make(encode(icon, "PNG"), format="png", quality=1)
    with open_variant(variant) as opened:
        assert opened.tobytes() == icon.tobytes()


def test_a_jpeg_is_flattened_on_the_background() -> None:
    hole = encode(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG")
    for options, color in (({}, (255, 255, 255)), ({"background": "00ff00"}, (0, 255, 0))):
        with open_variant(make(hole, format="jpeg", **options)) as opened:
            found = opened.convert("RGB").getpixel((8, 8))
            assert isinstance(found, tuple)
            assert max(abs(a - b) for a, b in zip(found, color, strict=True)) <= 2


@pytest.mark.parametrize(
    "data",
    [
        PHOTO,
        planted_jpeg(photo(90, 60), orientation=1, profile=SRGB_PROFILE),
        encode(photo(90, 60).convert("L"), "JPEG", progressive=True),
        encode(photo(90, 60), "JPEG", icc_profile=SRGB_PROFILE),
        encode(photo(90, 60), "JPEG", icc_profile=b"broken"),
    ],
    ids=["plain", "metadata", "gray", "sRGB", "broken profile"],
)
@pytest.mark.parametrize("options", [{}, {"width": 4096}, {"width": 90, "height": 60}], ids=str)
def test_a_jpeg_that_stays_as_it_is_is_not_encoded_again(
    data: bytes, options: dict[str, Any]
) -> None:
    variant = make(data, formats=("jpeg", "webp"), **options)
    with open_variant(variant) as opened, Image.open(BytesIO(data)) as source:
        assert opened.tobytes() == source.tobytes()
        assert "icc_profile" not in opened.info
    assert not any(sentinel in variant.data for sentinel in SENTINELS)
    assert (variant.width, variant.height) == (90, 60)
    assert variant.data == strip_metadata(strip_profile(data))


def strip_profile(data: bytes) -> bytes:
    """Return a JPEG without its ICC segments, which are small here."""
    start = data.find(b"\xff\xe2")
    while start >= 0:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        data = data[:start] + data[end:]
        start = data.find(b"\xff\xe2")
    return data


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (oriented(photo(90, 60), 3, "JPEG"), {}),
        (encode(photo(90, 60).convert("CMYK"), "JPEG"), {}),
        (PHOTO, {"quality": 85}),
        (PHOTO, {"width": 89}),
        (PHOTO, {"width": 60, "height": 60, "fit": "cover"}),
        (PHOTO, {"grayscale": True}),
        (encode(photo(90, 60), "PNG"), {}),
    ],
    ids=["turned", "CMYK", "quality", "narrower", "cropped", "operation", "PNG"],
)
def test_other_jpegs_are_encoded_again(data: bytes, options: dict[str, Any]) -> None:
    variant = make(data, format="jpeg", **options)
    with open_variant(variant) as opened:
        assert (opened.format, opened.mode) == ("JPEG", "RGB")
        assert opened.info["progressive"] == 1  # no source here is


def test_a_jpeg_in_other_colors_is_encoded_again(wide_profile: bytes) -> None:
    data = encode(photo(90, 60), "JPEG", icc_profile=wide_profile)
    with open_variant(make(data, format="jpeg")) as opened, Image.open(BytesIO(data)) as source:
        assert opened.tobytes() != source.tobytes()
        assert opened.info["progressive"] == 1


@pytest.fixture
def wide_profile() -> bytes:
    """A profile whose primaries are sRGB's, with red and green exchanged."""
    red, green = SRGB_PROFILE.find(b"rXYZ"), SRGB_PROFILE.find(b"gXYZ")
    profile = bytearray(SRGB_PROFILE)
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (122, 81)),
        ({"width": 100}, (100, 67)),
        ({"width": 160, "height": 160, "fit": "cover"}, (100, 100)),
        ({"grayscale": True}, (122, 81)),
    ],
    ids=str,
)
def test_an_avif_above_its_pixels_is_scaled_down_with_a_warning(
    options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_avif(10_000, monkeypatch)
    spec = VariantSpec("it", formats=("avif", "png"), **options)
    result = process(encode(photo(240, 160), "JPEG"), [spec], threads=1)
    variant = result.variants["it"]
    for file in (variant, *variant.alternates):
        with open_variant(file) as opened:
            assert opened.size == (file.width, file.height) == size
    assert ("avif_scaled_down" in result.warnings) == (size != (100, 67))


def test_other_formats_are_as_large_as_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_avif(10_000, monkeypatch)
    result = process(encode(photo(240, 160), "JPEG"), [VariantSpec("it", formats=("png", "webp"))])
    assert (result.variants["it"].width, result.warnings) == (240, ())


def limit_avif(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limit, which takes a second to reach."""
    assert avif_encoder.MAX_PIXELS == OUTPUT_FORMATS["avif"].max_pixels == 4_200_000
    lowered = replace(OUTPUT_FORMATS["avif"], max_pixels=pixels)
    monkeypatch.setitem(OUTPUT_FORMATS, "avif", lowered)


@pytest.mark.parametrize("threads", [1, 3])
def test_files_are_the_same_from_any_number_of_threads(threads: int) -> None:
    specs = [
        VariantSpec("large", formats=OUTPUTS),
        VariantSpec("small", width=30, formats=OUTPUTS),
        VariantSpec("again", width=30, formats=("webp", "avif")),
    ]
    result = process(PHOTO, specs, threads=threads)
    assert result == process(PHOTO, specs, threads=1)
    assert result.variants["again"].alternates[0].data == result.variants["small"].data


@pytest.mark.parametrize("output", OUTPUTS)
def test_no_metadata_reaches_any_format(output: str) -> None:
    for data in (planted_jpeg(photo(90, 60), profile=SRGB_PROFILE), planted_png(photo(90, 60))):
        for options in ({}, {"width": 30}):
            file = make(data, format=output, **options).data
            assert not any(sentinel in file for sentinel in SENTINELS)
            assert not any(mark in file for mark in (b"Exif", b"acsp", b"xmpmeta"))


SPECS = (
    VariantSpec("large", width=80),
    VariantSpec("small", width=20),
    VariantSpec("square", width=30, height=30, fit="cover"),
    VariantSpec("gray", width=40, grayscale=True),
    VariantSpec("zoom", width=120, crop="0p:0p:50p:50p"),
)


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (SPECS, ("small", "large")),
        ((*SPECS, VariantSpec("sharp", width=40, dpr=2)), ("small", "large", "sharp")),
        ((*SPECS, VariantSpec("wide", width=90, sepia=True)), ("wide",)),
        ((SPECS[2], SPECS[4]), ()),
        ((VariantSpec("odd", width=7), VariantSpec("full")), ("odd", "full")),
    ],
)
def test_variants_that_show_the_whole_image_alike_are_responsive(
    specs: Sequence[VariantSpec], names: tuple[str, ...]
) -> None:
    result = process(encode(photo(360, 239), "JPEG"), specs, threads=1)
    assert result.responsive == names
    assert result.describe()["responsive"] == list(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gif"}, r"Size 'a': format 'gif' is unknown\. Use one of 'avif', 'webp', "),
        ({"format": ["webp"]}, r"format \['webp'\] is unknown"),
        ({"format": None}, "format None is unknown"),
        ({"formats": ["webp", "jpg"]}, "format 'jpg' is unknown"),
        ({"formats": ["webp", "webp"]}, "Use a list of different formats"),
        ({"formats": "webp"}, "formats is 'webp'. Use a list of different formats"),
        ({"formats": {"webp": 1}}, "Use a list of different formats"),
        ({"format": "png", "formats": ["avif", "webp"]}, "format contradicts formats"),
        ({"webp_quality": 0}, "webp_quality is 0. Use a whole number from 1 to 100"),
        ({"webp_quality": "85"}, "webp_quality is '85'"),
    ],
)
def test_unknown_formats_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidVariantError, match=message):
        VariantSpec("a", **options)


@pytest.mark.parametrize(
    ("options", "files", "text"),
    [
        ({}, {"a": "webp"}, "VariantSpec(name='a')"),
        ({"format": "webp"}, {"a": "webp"}, "VariantSpec(name='a')"),
        ({"formats": ["jpeg"]}, {"a": "jpeg"}, "VariantSpec(name='a', format='jpeg')"),
        (
            {"formats": ["avif", "webp"]},
            {"a": "avif", "a.webp": "webp"},
            "VariantSpec(name='a', formats=('avif', 'webp'))",
        ),
    ],
)
def test_formats_have_one_form(options: dict[str, Any], files: dict[str, str], text: str) -> None:
    spec = VariantSpec("a", **options)
    assert (spec.files, repr(spec), spec.format) == (files, text, files["a"])
    assert replace(spec, width=9).files == files
    assert spec.is_plain
