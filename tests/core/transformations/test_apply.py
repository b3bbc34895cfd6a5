"""Where the pixels go, on images without any encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations import apply as order
from imageprocessor.core.transformations.apply import apply
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.errors import InvalidTransformationError
from tests.images import photo

MAX_PIXELS = 50_000_000


def transformed(
    image: Image.Image, text: str, mark: Image.Image | None = None, original: Any = None
) -> Image.Image:
    wanted = Transformation.parse(text)
    shown = Dimensions(*(original or image.size))
    before = image.tobytes()
    made = apply(wanted, image, shown, mark, MAX_PIXELS)
    assert image.tobytes() == before, "the image is shared with other variants"
    return made


def as_array(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def test_operations_apply_in_the_documented_order() -> None:
    assert [step.__name__ for step in order.STEPS] == [
        "crop",
        "trim",
        "rotate_and_flip",
        "resize_to_bounds",
        "pad",
        "change_colors",
        "filter_details",
        "draw_watermark",
        "round_corners",
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", lambda a: a),
        ("crop_3:5:20:10", lambda a: a[5:15, 3:23]),
        ("crop_50p:0p:50p:100p", lambda a: a[:, 25:]),
        ("rot_90", lambda a: np.rot90(a, -1)),
        ("rot_180", lambda a: np.rot90(a, 2)),
        ("rot_270", np.rot90),
        ("flip_h", lambda a: a[:, ::-1]),
        ("flip_v", lambda a: a[::-1]),
        ("flip_hv", lambda a: a[::-1, ::-1]),
        ("rot_90,flip_h", lambda a: np.rot90(a, -1)[:, ::-1]),
        ("crop_3:5:20:10,rot_270,flip_v", lambda a: np.rot90(a[5:15, 3:23])[::-1]),
        ("ar_1:1,fit_cover", lambda a: a[:, 5:45]),
        ("ar_1:1,fit_cover,g_w", lambda a: a[:, :40]),
        ("ar_1:1,fit_cover,g_ne", lambda a: a[:, 10:]),
        ("ar_5:2,fit_cover,g_n", lambda a: a[:20]),
        ("ar_5:2,fit_cover,g_se", lambda a: a[20:]),
        ("ar_1:1,fit_cover,g_23:0", lambda a: a[:, 3:43]),
        ("ar_1:1,fit_cover,g_100p:50p", lambda a: a[:, 10:]),
        ("rot_90,ar_1:1,fit_cover,g_n", lambda a: np.rot90(a, -1)[:40]),
    ],
)
def test_pixels_that_are_only_moved_stay_exact(text: str, expected: Any, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, len(mode)), np.uint8)
    pixels[..., 3:] = 255
    made = transformed(Image.fromarray(pixels), text)
    assert np.array_equal(np.asarray(made), expected(pixels))


@pytest.mark.parametrize("text", ["w_25", "w_25,h_20,fit_fill", "w_25,h_20,fit_cover"])
def test_resizing_is_lanczos(text: str) -> None:
    image = photo(50, 40)
    assert transformed(image, text) == image.resize((25, 20), Image.Resampling.LANCZOS)


POINTS = st.tuples(st.integers(10, 189), st.integers(10, 119))


@settings(deadline=None)
@given(
    POINTS,
    st.sampled_from([0, 90, 180, 270]),
    st.sampled_from(["", ",flip_h", ",flip_v", ",flip_hv"]),
    st.sampled_from([(60, 60), (120, 40), (40, 120)]),
    st.sampled_from([1, 2]),
)
def test_the_focus_stays_in_the_image_however_it_is_turned(
    point: tuple[int, int], rotate: int, flip: str, size: tuple[int, int], shrunk: int
) -> None:
    image = Image.new("RGB", (200, 130))
    x, y = point
    image.paste((255, 255, 255), (x - 4, y - 4, x + 4, y + 4))
    shown = image.reduce(shrunk)  # as after a decode at half the size
    text = f"rot_{rotate}{flip},w_{size[0]},h_{size[1]},fit_cover,g_{x}:{y}"
    made = transformed(shown, text, original=image.size)
    assert made.size == size
    assert as_array(made).max() > 150


def test_a_crop_keeps_the_focus_of_the_uncropped_image() -> None:
    image = Image.new("RGB", (200, 100))
    image.paste((255, 255, 255), (150, 40, 160, 50))
    made = transformed(image, "crop_50:0:150:100,ar_1:2,fit_cover,g_155:45")
    assert made.size == (50, 100)
    assert as_array(made)[45, 25].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("gravity", "place"),
    [("nw", (0, 0)), ("center", (5, 10)), ("e", (10, 10)), ("s", (5, 20)), ("se", (10, 20))],
)
def test_pad_places_the_image_by_its_gravity(gravity: str, place: tuple[int, int]) -> None:
    image = Image.new("RGB", (20, 20), "teal")
    made = transformed(image, f"w_30,h_40,fit_pad,g_{gravity},bg_ffffff")
    left, top = place
    expected = np.full((40, 30, 3), 255)
    expected[top : top + 20, left : left + 20] = (0, 128, 128)
    assert np.array_equal(as_array(made), expected)


def test_trim_works_on_what_the_crop_keeps() -> None:
    image = Image.new("RGB", (100, 80), "white")
    image.paste("red", (0, 0, 30, 80))
    image.paste("teal", (50, 20, 70, 60))
    assert transformed(image, "crop_30:0:70:80,trim_1") == Image.new("RGB", (20, 40), "teal")


@pytest.mark.parametrize(("dpr", "pixels"), [(1, 10), (1.5, 15), (2, 20), (4, 20)])
def test_dpr_multiplies_lengths_by_what_is_reached(dpr: float, pixels: int) -> None:
    image = Image.new("RGB", (200, 200), "teal")
    made = transformed(image, f"w_100,dpr_{dpr},pad_10")
    side = 10 * pixels + 2 * pixels
    assert made.size == (side, side)
    assert made.getchannel("A").getbbox() == (pixels, pixels, side - pixels, side - pixels)
    dense = transformed(photo(200, 200), f"w_100,dpr_{dpr},pix_10,r_10,blur_2")
    factor = pixels / 10
    plain = transformed(photo(200, 200), f"w_{round(100 * factor)},pix_{pixels},r_{pixels}")
    assert dense.size == plain.size
    assert np.array_equal(as_array(dense)[..., 3], as_array(plain)[..., 3])


def test_the_watermark_is_fitted_into_its_part_of_the_image() -> None:
    mark = Image.new("RGBA", (300, 100), (255, 0, 0, 255))
    made = as_array(transformed(Image.new("RGB", (400, 200)), "wm_logo:se:100:25", mark))
    expected = np.zeros((200, 400, 3), int)
    expected[167:, 300:] = (255, 0, 0)
    assert np.array_equal(made, expected)


def test_the_background_lies_under_round_corners_of_a_logo_not_beyond_them() -> None:
    logo = Image.new("RGBA", (40, 40))
    made = transformed(logo, "bg_ff0000,r_max")
    assert made.getpixel((20, 20)) == (255, 0, 0, 255)
    assert made.getpixel((0, 0)) == (255, 0, 0, 0)


@pytest.mark.parametrize(
    "text", ["w_17000,up_1", "w_9000,h_9000,fit_cover,up_1", "pad_9000", "w_16000,h_9000,fit_pad"]
)
def test_too_large_results_are_refused_before_they_are_made(text: str) -> None:
    with pytest.raises(InvalidTransformationError, match="at most 16383 on a side, and 50000000"):
        transformed(Image.new("RGB", (30, 20)), text)


@pytest.mark.parametrize("text", ["pad_5", "w_30,h_50,fit_pad,pad_5", "w_30,h_50,fit_pad"])
def test_a_translucent_background_lies_under_everything_once(text: str) -> None:
    made = transformed(Image.new("RGBA", (20, 20)), f"{text},bg_ff000080")
    assert made.getcolors() == [(made.width * made.height, (255, 0, 0, 128))]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_everything_at_once_works_on_extreme_shapes(size: tuple[int, int], mode: str) -> None:
    text = (
        "crop_10p:10p:80p:80p,trim_1,rot_90,flip_hv,w_40,h_30,fit_cover,g_auto,dpr_2,bg_11223344,"
        "pad_3,bri_5,con_5,sat_5,gray_1,sepia_1,blur_100,sharp_100,pix_1000,wm_a:ne:50:1,r_max"
    )
    made = transformed(Image.new(mode, size, "teal"), text, Image.new("RGBA", (9, 1), "red"))
    assert made.mode == "RGBA"
    assert min(made.size) >= 7
