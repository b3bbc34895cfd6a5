from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations.geometry import (
    find_crop_box,
    find_needed,
    place_around,
    plan_resize,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.errors import InvalidTransformationError


def plan(text: str, width: int, height: int) -> tuple[Any, ...]:
    return tuple(plan_resize(Transformation.parse(text), Dimensions(width, height)))


@pytest.mark.parametrize(
    ("text", "source", "area", "size", "canvas"),
    [
        ("", (300, 200), (300, 200), (300, 200), (300, 200)),
        ("w_150", (300, 200), (300, 200), (150, 100), (150, 100)),
        ("w_600", (300, 200), (300, 200), (300, 200), (300, 200)),
        ("w_600,up_1", (300, 200), (300, 200), (600, 400), (600, 400)),
        ("w_600,h_300,up_1", (300, 200), (300, 200), (450, 300), (450, 300)),
        ("h_100,up_1", (300, 200), (300, 200), (150, 100), (150, 100)),
        ("w_150,ar_3:1", (300, 200), (300, 200), (75, 50), (75, 50)),
        ("w_100,h_100,fit_cover", (300, 200), (200, 200), (100, 100), (100, 100)),
        ("w_400,h_400,fit_cover", (300, 200), (200, 200), (200, 200), (200, 200)),
        ("w_400,h_400,fit_cover,up_1", (300, 200), (200, 200), (400, 400), (400, 400)),
        ("ar_1:1,fit_cover", (300, 200), (200, 200), (200, 200), (200, 200)),
        ("w_90,ar_1:1,fit_cover", (300, 200), (200, 200), (90, 90), (90, 90)),
        ("h_90,ar_1.5:1,fit_cover", (300, 200), (300, 200), (135, 90), (135, 90)),
        ("w_100,h_100,fit_pad", (300, 200), (300, 200), (100, 67), (100, 100)),
        ("w_400,h_500,fit_pad", (300, 200), (300, 200), (300, 200), (400, 500)),
        ("w_600,h_600,fit_pad,up_1", (300, 200), (300, 200), (600, 400), (600, 600)),
        ("ar_1:1,fit_pad", (300, 200), (300, 200), (300, 200), (300, 300)),
        ("ar_1:1,fit_pad", (200, 300), (200, 300), (200, 300), (300, 300)),
        ("w_50,h_200,fit_fill", (300, 200), (300, 200), (50, 200), (50, 200)),
        ("w_600,h_200,fit_fill", (300, 200), (300, 200), (300, 100), (300, 100)),
        ("w_600,h_100,fit_fill,up_1", (300, 200), (300, 200), (600, 100), (600, 100)),
    ],
)
def test_sizes_of_each_fit(
    text: str, source: tuple[int, int], area: Any, size: Any, canvas: Any
) -> None:
    assert plan(text, *source) == (area, size, canvas, 1)


@pytest.mark.parametrize(
    ("text", "size", "density"),
    [
        ("w_100,dpr_2", (200, 133), 2),
        ("w_200,dpr_2", (300, 200), 1.5),
        ("w_400,dpr_2", (300, 200), 1),
        ("w_200,dpr_4,up_1", (800, 533), 4),
        ("w_150,h_150,fit_cover,dpr_2", (200, 200), 200 / 150),
    ],
)
def test_dpr_counts_as_far_as_the_image_reaches(text: str, size: Any, density: float) -> None:
    _, made, _, reached = plan(text, 300, 200)
    assert made == size
    assert reached == pytest.approx(density)


def test_a_padded_canvas_grows_with_what_dpr_reaches() -> None:
    _, size, canvas, density = plan("w_200,h_200,fit_pad,dpr_4", 300, 200)
    assert (size, canvas, density) == ((300, 200), (300, 300), 1.5)


SIDES = st.integers(1, 3000)
BOUNDS = st.integers(1, 4000)


@given(SIDES, SIDES, BOUNDS, BOUNDS, st.sampled_from(["inside", "cover", "pad", "fill"]))
def test_bounds_hold_and_nothing_is_enlarged(
    source_width: int, source_height: int, width: int, height: int, fit: Any
) -> None:
    source = Dimensions(source_width, source_height)
    wanted = Transformation(width, height, fit)
    area, size, canvas, _ = plan_resize(wanted, source)
    assert 1 <= size.width <= min(width, area.width)
    assert 1 <= size.height <= min(height, area.height)
    assert area.width <= source.width
    assert area.height <= source.height
    assert canvas == ((width, height) if fit == "pad" else size)
    needed = find_needed(wanted, source)
    assert needed.size.width >= size.width
    assert needed.size.height >= size.height


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ("10:20:30:40", (10, 20, 40, 60)),
        ("0:0:300:200", (0, 0, 300, 200)),
        ("10p:0p:50p:50p", (30, 0, 180, 100)),
        ("33.333p:0p:33.333p:100p", (100, 0, 200, 200)),
        ("99.999p:99.999p:0.001p:0.001p", (299, 199, 300, 200)),
    ],
)
def test_crop_in_pixels_and_in_percent(crop: str, box: Any) -> None:
    assert find_crop_box(Transformation(crop=crop), Dimensions(300, 200)) == box


@pytest.mark.parametrize("crop", ["300:0:1:1", "0:0:301:1", "0:150:10:51", "999999:0:1:1"])
def test_a_crop_that_is_not_within_the_image_is_refused(crop: str) -> None:
    with pytest.raises(InvalidTransformationError) as caught:
        find_crop_box(Transformation(crop=crop), Dimensions(300, 200))
    assert str(caught.value) == (
        f"crop {crop} is not within the image of 300 x 200 pixels. "
        "Use a smaller one, or percent as 10p:0p:50p:50p."
    )


@given(st.integers(0, 999_999), st.integers(0, 999_999), SIDES, SIDES, st.data())
def test_the_area_around_a_point_is_within_the_image(
    x: int, y: int, width: int, height: int, data: Any
) -> None:
    inner = Dimensions(data.draw(st.integers(1, width)), data.draw(st.integers(1, height)))
    left, top = place_around((x, y), Dimensions(width, height), inner)
    assert 0 <= left <= width - inner.width
    assert 0 <= top <= height - inner.height
    if inner.width < x < width - inner.width:
        assert left <= x <= left + inner.width
