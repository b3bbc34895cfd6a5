from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.core.geometry import Dimensions, center_box, fit_inside, largest_crop

sides = st.integers(1, 65_535)
dimensions = st.builds(Dimensions, sides, sides)


def test_no_output_is_larger_than_source_bounds_or_webp() -> None:
    sides = [1, 2, 3, 149, 150, 151, 600, 16383, 16384, 65535]
    for width in sides:
        for height in sides:
            for asked in (1, 7, 150, 4096, 65535):
                size = fit_inside(Dimensions(width, height), width=asked)
                assert 1 <= size.width <= min(width, asked, 16383)
                assert 1 <= size.height <= min(height, 16383)
                by_width = max(1, round(height * size.width / width))
                by_height = max(1, round(width * size.height / height))
                assert size.height == by_width or size.width == by_height


@given(dimensions, dimensions)
def test_a_crop_is_within_its_source_and_fills_one_side(
    source: Dimensions, aspect: Dimensions
) -> None:
    crop = largest_crop(source, aspect)
    assert 1 <= crop.width <= source.width
    assert 1 <= crop.height <= source.height
    assert crop.width == source.width or crop.height == source.height


@given(dimensions, dimensions, dimensions)
def test_a_box_is_within_its_image(
    source: Dimensions, aspect: Dimensions, size: Dimensions
) -> None:
    left, top, right, bottom = center_box(largest_crop(source, aspect), source, size)
    assert 0 <= left < right <= size.width
    assert 0 <= top < bottom <= size.height


@pytest.mark.parametrize(
    ("area", "box"), [((10, 10), (45, 45, 55, 55)), ((99, 100), (0, 0, 99, 100))]
)
def test_a_box_is_in_the_middle(area: tuple[int, int], box: tuple[int, ...]) -> None:
    image = Dimensions(100, 100)
    assert center_box(Dimensions(*area), source=image, size=image) == box
