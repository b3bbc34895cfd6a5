from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.pipeline import ProcessedImage, process
from imageprocessor.core.variants import (
    DEFAULT_VARIANTS,
    Variant,
    VariantSpec,
)
from imageprocessor.errors import InvalidVariantError
from tests.images import animated_webp, encode, photo


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        ((3024, 4032), [(150, 200), (600, 800), (1200, 1600), (3024, 4032)]),
        ((4032, 3024), [(150, 112), (600, 450), (1200, 900), (4032, 3024)]),
        ((8000, 6000), [(150, 112), (600, 450), (1200, 900), (4096, 3072)]),
        ((1000, 667), [(150, 100), (600, 400), (1000, 667), (1000, 667)]),
        ((1, 1), [(1, 1)] * 4),
        ((1, 16384), [(1, 16383)] * 4),
        ((2, 65535), [(1, 16383)] * 4),
        ((16384, 1), [(150, 1), (600, 1), (1200, 1), (4096, 1)]),
        ((65535, 1), [(150, 1), (600, 1), (1200, 1), (4096, 1)]),
        ((200, 40000), [(82, 16383)] * 4),
    ],
)
def test_default_sizes_bound_the_width_and_keep_the_aspect(
    source: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    assert [spec.find_crop(Dimensions(*source)).size for spec in DEFAULT_VARIANTS] == sizes


@pytest.mark.parametrize(
    ("source", "asked", "size"),
    [
        ((3000, 2000), {"width": 300, "height": 300}, (300, 200)),
        ((2000, 3000), {"width": 300, "height": 300}, (200, 300)),
        ((3000, 2000), {"height": 100}, (150, 100)),
        ((200, 100), {"width": 300, "height": 300}, (200, 100)),
        ((40000, 20000), {"width": 65535}, (16383, 8192)),
    ],
)
def test_inside_keeps_every_bound_and_never_enlarges(
    source: tuple[int, int], asked: dict[str, Any], size: tuple[int, int]
) -> None:
    assert VariantSpec("x", **asked).find_crop(Dimensions(*source)).size == size


@pytest.mark.parametrize(
    ("source", "asked", "crop", "size"),
    [
        ((3000, 2000), (300, 300), (2000, 2000), (300, 300)),
        ((2000, 3000), (400, 300), (2000, 1500), (400, 300)),
        ((300, 300), (300, 300), (300, 300), (300, 300)),
        (
            (200, 1000),
            (400, 300),
            (200, 150),
            (200, 150),
        ),  # too narrow: the largest crop with that aspect ratio
        ((1000, 200), (300, 400), (150, 200), (150, 200)),
        ((1, 1), (300, 100), (1, 1), (1, 1)),
        ((65535, 2), (20000, 20000), (2, 2), (2, 2)),
        ((20000, 20000), (20000, 20000), (20000, 20000), (16383, 16383)),
    ],
)
def test_cover_fills_the_box_from_the_middle_and_never_enlarges(
    source: tuple[int, int], asked: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]
) -> None:
    spec = VariantSpec("x", width=asked[0], height=asked[1], fit="cover")
    assert spec.find_crop(Dimensions(*source)) == (crop, size)


@pytest.mark.parametrize("name", ["a", "0", "thumbnail", "hero-2x", "a_b", "x" * 32])
def test_names_that_make_good_paths_are_accepted(name: str) -> None:
    assert VariantSpec(name, width=1).name == name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": ""}, "Size name ''"),
        ({"name": "Card"}, "Size name 'Card'"),
        ({"name": "a/b"}, "Size name 'a/b'"),
        ({"name": "a\n"}, r"Size name 'a\\n'"),
        ({"name": "-a"}, "Size name '-a'"),
        ({"name": "x" * 33}, "1 to 32"),
        ({"name": "x" * 10_000}, "1 to 32"),
        ({"name": 7}, "Size name 7"),
        ({"width": 0}, r"width is 0\. Use a whole number of pixels, from 1 to 999999"),
        ({"width": -5}, "width is -5"),
        ({"width": 1.5}, "width is 1.5"),
        ({"width": "150"}, "width is '150'"),
        ({"width": True}, "width is True"),
        ({"height": 0}, "height is 0"),
        ({"fit": "crop"}, r"fit is 'crop'\. Use 'inside', 'cover', 'pad' or 'fill'"),
        ({"fit": ["cover"]}, "fit is"),
        ({"fit": "cover"}, "needs both a width and a height"),
        ({"fit": "cover", "width": None, "height": 9}, "needs both a width and a height"),
        ({"quality": 0}, r"quality is 0\. Use a whole number from 1 to 100, or 'auto'\."),
        ({"quality": 101}, "quality is 101"),
        ({"effort": -1}, r"effort is -1\. Use a whole number from 0 to 6"),
        ({"effort": 7}, "effort is 7"),
        ({"blur": 101}, r"Size 'card': blur is 101\. Use a number from 0 to 100"),
        ({"fit": "pad"}, "Size 'card': fit 'pad' needs both a width and a height"),
    ],
)
def test_values_out_of_range_are_refused_with_the_accepted_range(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidVariantError, match=message) as caught:
        VariantSpec(**{"name": "card", "width": 400, **asked})
    assert len(str(caught.value)) < 250


def test_specs_and_variants_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_VARIANTS[0].width = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Variant(b"", 1, 1).width = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("effort", "width", "used"), [(None, 2048, 4), (None, 2049, 2), (0, 4096, 0), (6, 10, 6)]
)
def test_default_effort_is_lower_for_wide_outputs(
    effort: int | None, width: int, used: int
) -> None:
    assert VariantSpec("x", width=9, effort=effort).effort_for(width) == used


def test_default_variants_are_the_documented_ones() -> None:
    assert {spec.name: spec.width for spec in DEFAULT_VARIANTS} == {
        "thumbnail": 150,
        "medium": 600,
        "large": 1200,
        "original": 4096,
    }
    for spec in DEFAULT_VARIANTS:
        assert (spec.height, spec.fit, spec.effort) == (None, "inside", None)
        assert (spec.files, spec.quality_for("webp")) == ({spec.name: "webp"}, 85)


def test_repr_of_a_result_leaves_out_the_encoded_files() -> None:
    result = process(encode(photo(1, 2), "PNG"), [VariantSpec("a", width=1)])
    assert "Variant(width=1, height=2, format='webp', " in repr(result)
    assert "RIFF" not in repr(result)


def test_variant_has_its_aspect_ratio_and_size() -> None:
    variant = Variant(b"12345", width=150, height=113)
    assert (variant.aspect_ratio, variant.size_bytes, variant.format) == (1.3274, 5, "webp")


def test_lossless_needs_a_format_that_can_be() -> None:
    with pytest.raises(InvalidVariantError, match="lossless needs the format 'webp' or 'png'"):
        VariantSpec("exact", formats=("avif", "jpeg"), lossless=True)
    assert VariantSpec("exact", formats=("avif", "webp"), lossless=True).lossless is True
    assert VariantSpec("small", format="avif", lossless=False).lossless is False


def test_an_animation_that_is_kept_needs_webp() -> None:
    with pytest.raises(InvalidVariantError, match="'keep' needs the format 'webp'"):
        VariantSpec("moving", format="avif", animation="keep")
    spec = VariantSpec("moving", formats=("avif", "webp"), animation="keep")
    moving = animated_webp()
    still = encode(photo(8, 6), "PNG")
    assert _list_formats(process(moving, [spec])) == ["webp"]
    assert _list_formats(process(still, [spec])) == ["avif", "webp"]


def _list_formats(result: ProcessedImage) -> list[str]:
    return [variant.format for variant in result.files.values()]
