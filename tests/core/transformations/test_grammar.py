from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageprocessor.core.transformations.grammar import OPERATIONS, Transformation
from imageprocessor.errors import InvalidTransformationError
from tests.fuzz.targets import check_operations

DIRECTIONS = st.sampled_from(["center", "n", "ne", "e", "se", "s", "sw", "w", "nw"])
WHOLE = st.integers(0, 999_999)
PERCENT = st.integers(0, 50_000).map(lambda value: value / 1000)
LEVEL = st.integers(-100_000, 100_000).map(lambda value: value / 1000)
STRENGTH = st.integers(0, 100_000).map(lambda value: value / 1000)


def number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


PIXEL_CROPS = st.tuples(WHOLE, WHOLE, st.integers(1, 999_999), st.integers(1, 999_999)).map(
    lambda sides: ":".join(map(str, sides))
)
PERCENT_CROPS = st.tuples(PERCENT, PERCENT, PERCENT.filter(bool), PERCENT.filter(bool)).map(
    lambda sides: ":".join(f"{number(side)}p" for side in sides)
)
POINTS = st.one_of(
    st.tuples(WHOLE, WHOLE).map(lambda point: f"{point[0]}:{point[1]}"),
    st.tuples(PERCENT, PERCENT).map(lambda point: f"{number(point[0])}p:{number(point[1])}p"),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "crop": st.one_of(PIXEL_CROPS, PERCENT_CROPS, st.just("0p:0p:100p:100p")),
    "trim": st.booleans(),
    "rotate": st.sampled_from([0, 90, 180, 270]),
    "flip": st.sampled_from(["h", "v", "hv"]),
    "width": st.integers(1, 999_999),
    "height": st.integers(1, 999_999),
    "aspect_ratio": st.sampled_from(["16:9", "1.91:1", "1:1", "0.001:999999"]),
    "fit": st.sampled_from(["inside", "cover", "pad", "fill"]),
    "gravity": st.one_of(DIRECTIONS, st.just("auto"), POINTS),
    "dpr": st.sampled_from([1, 1.0, 1.5, 2, 2.625, 4]),
    "enlarge": st.booleans(),
    "background": st.from_regex(r"[0-9a-f]{6}([0-9a-f]{2})?", fullmatch=True),
    "pad": WHOLE,
    "brightness": LEVEL,
    "contrast": LEVEL,
    "saturation": LEVEL,
    "grayscale": st.booleans(),
    "sepia": st.booleans(),
    "blur": STRENGTH,
    "sharpen": STRENGTH,
    "pixelate": st.integers(0, 1000),
    "watermark": st.tuples(
        st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True),
        DIRECTIONS,
        st.integers(1, 100),
        st.integers(1, 100),
    ).map(lambda parts: ":".join(map(str, parts))),
    "radius": st.one_of(WHOLE, st.just("max")),
    "quality": st.integers(1, 100),
    "animation": st.sampled_from(["first", "keep"]),
}


@st.composite
def transformations(draw: st.DrawFn) -> Transformation:
    options = draw(st.fixed_dictionaries({}, optional=FIELDS))
    if "width" in options and "height" in options:
        options.pop("aspect_ratio", None)
    elif options.get("fit") in ("cover", "pad"):
        options.setdefault("aspect_ratio", "4:3")
    elif options.get("fit") == "fill":
        options |= {"width": 9, "aspect_ratio": "4:3"}
        options.pop("height", None)
    elif not ("width" in options or "height" in options):
        options.pop("aspect_ratio", None)
    return Transformation(**options)


def test_every_field_has_one_operation_and_a_strategy_here() -> None:
    names = {field.name for field in dataclasses.fields(Transformation)}
    assert names == {operation.field for operation in OPERATIONS} == set(FIELDS)
    assert len({operation.key for operation in OPERATIONS}) == len(OPERATIONS)


@settings(max_examples=100, deadline=None)
@given(transformations(), st.randoms(use_true_random=False))
def test_parse_reads_what_str_writes_in_any_order(wanted: Transformation, random: Any) -> None:
    text = str(wanted)
    assert Transformation.parse(text) == wanted
    check_operations(text.encode())
    parts = text.split(",") if text else []
    random.shuffle(parts)
    assert Transformation.parse(",".join(parts)) == wanted


@pytest.mark.parametrize("key", [operation.key for operation in OPERATIONS])
@settings(max_examples=20, deadline=None)
@given(value=st.one_of(st.text(max_size=30), st.floats().map(str), st.integers().map(str)))
def test_any_value_is_read_or_refused(key: str, value: str) -> None:
    check_operations(f"{key}_{value}".encode())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    check_operations(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoom_2", "Unknown operation 'zoom_2'. Use one of crop, trim, rot, "),
        ("w400", "Unknown operation 'w400'"),
        ("W_400", "Unknown operation 'W_400'"),
        (",", "Unknown operation ''"),
        ("w_400,", "Unknown operation ''"),
        ("w_400,,h_300", "Unknown operation ''"),
        (" w_400", "Unknown operation ' w_400'"),
        ("w_400,w_400", "w occurs twice. Use it once."),
        ("gray_0,gray_1", "gray occurs twice"),
        ("w_", "w is ''. Use a whole number of pixels, from 1 to 999999."),
        ("w_0", "w is '0'"),
        ("w_-5", "w is '-5'"),
        ("w_+5", "w is '+5'"),
        ("w_05", "w is '05'"),
        ("w_4e2", "w is '4e2'"),
        ("w_400.0", "w is '400.0'"),
        ("w_٤", "w is '٤'"),
        ("w_1000000", "w is '1000000'"),
        (f"w_{'9' * 400}", "w is '9999"),
        ("h_1_000", "h is '1_000'"),
        ("blur_nan", "blur is 'nan'. Use a number from 0 to 100 with at most three decimals"),
        ("blur_inf", "blur is 'inf'"),
        ("blur_1e1", "blur is '1e1'"),
        ("blur_2.50", "blur is '2.50'"),
        ("blur_.5", "blur is '.5'"),
        ("blur_0.0001", "blur is '0.0001'"),
        ("blur_100.001", "blur is '100.001'"),
        ("blur_-1", "blur is '-1'"),
        ("bri_-0", "bri is '-0'"),
        ("bri_-100.5", "bri is '-100.5'"),
        ("dpr_0.5", "dpr is '0.5'. Use a number from 1 to 4"),
        ("dpr_5", "dpr is '5'"),
        ("trim_yes", "trim is 'yes'. Use 1, or 0 for no."),
        ("rot_45", "rot is '45'. Use 0, 90, 180 or 270."),
        ("flip_x", "flip is 'x'. Use h, v or hv."),
        ("fit_contain", "fit is 'contain'. Use inside, cover, pad or fill."),
        ("ar_16", "ar is '16'. Use w:h, such as 16:9 or 1.91:1, both above 0."),
        ("ar_0:9", "ar is '0:9'"),
        ("g_north", "g is 'north'. Use center, n, ne"),
        ("g_10:20p", "g is '10:20p'"),
        ("g_101p:0p", "g is '101p:0p'"),
        ("g_1.5:2", "g is '1.5:2'"),
        ("bg_FF0000", "bg is 'FF0000'. Use rrggbb or rrggbbaa in lower-case"),
        ("bg_f00", "bg is 'f00'"),
        ("crop_0:0:0:5", "crop is '0:0:0:5'. Use x:y:w:h in pixels, or in percent"),
        ("crop_0:0:10", "crop is '0:0:10'"),
        ("crop_0:0:10:10p", "crop is '0:0:10:10p'"),
        ("crop_60p:0p:50p:100p", "crop is '60p:0p:50p:100p'"),
        ("crop_-1:0:10:10", "crop is '-1:0:10:10'"),
        ("wm_logo", "wm is 'logo'. Use name:gravity:opacity:scale, such as logo:se:80:25"),
        ("wm_Logo:se:80:25", "wm is 'Logo:se:80:25'"),
        ("wm_../logo:se:80:25", "wm is '../logo:se:80:25'"),
        ("wm_logo:auto:80:25", "wm is 'logo:auto:80:25'"),
        ("wm_logo:se:0:25", "wm is 'logo:se:0:25'"),
        ("wm_logo:se:80:101", "wm is 'logo:se:80:101'"),
        ("pix_1001", "pix is '1001'. Use a whole number of pixels, from 0 to 1000."),
        ("r_huge", "r is 'huge'. Use a whole number of pixels, from 0 to 999999, or 'max'."),
        ("q_0", "q is '0'. Use a whole number from 1 to 100."),
        ("q_auto", "q is 'auto'"),
        ("fit_cover", "fit 'cover' needs both a width and a height"),
        ("fit_pad,w_3", "fit 'pad' needs both"),
        ("ar_1:1", "fit 'inside' with an aspect_ratio needs a width or a height"),
        ("ar_1:1,fit_fill", "fit 'fill' with an aspect_ratio needs a width or a height"),
        ("w_1,h_1,ar_1:1", "aspect_ratio contradicts width and height"),
        ("w_" * 600, "The operations have 1200 characters. Use at most 1000."),
    ],
)
def test_a_fault_is_named_with_its_value_and_the_accepted_form(text: str, message: str) -> None:
    with pytest.raises(InvalidTransformationError) as caught:
        Transformation.parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1.5}, "width is 1.5. Use a whole number of pixels, from 1 to 999999."),
        ({"width": True}, "width is True"),
        ({"width": "400"}, "width is '400'"),
        ({"blur": math.nan}, "blur is nan"),
        ({"blur": 1 / 3}, "blur is 0.333"),
        ({"blur": False}, "blur is False"),
        ({"trim": "1"}, "trim is '1'. Use True or False."),
        ({"rotate": -90}, "rotate is -90. Use 0, 90, 180 or 270."),
        ({"flip": "vh"}, "flip is 'vh'. Use 'h', 'v' or 'hv'."),
        ({"crop": (0, 0, 1, 1)}, "crop is (0, 0, 1, 1). Use x:y:w:h"),
        ({"gravity": None}, "gravity is None"),
        ({"radius": -1}, "radius is -1"),
        ({"quality": 0}, "quality is 0"),
    ],
)
def test_python_values_are_checked_the_same(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTransformationError) as caught:
        Transformation(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "trim_0",
        "rot_0",
        "blur_0,sharp_0,pix_1",
        "bri_0,con_0,sat_0,gray_0,sepia_0",
        "pad_0,r_0",
        "crop_0p:0p:100p:100p",
        "fit_inside,g_ne",
        "dpr_3,up_1",
        "bg_12345600",
    ],
)
def test_what_changes_nothing_is_dropped(text: str) -> None:
    assert Transformation.parse(text) == Transformation()
    assert str(Transformation.parse(text)) == ""


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("blur_2,fit_cover,h_300,w_400", "w_400,h_300,fit_cover,blur_2"),
        ("bg_ff0000ff,pad_9", "bg_ff0000,pad_9"),
        ("w_9,h_9,fit_pad,g_auto", "w_9,h_9,fit_pad"),
        ("w_9,h_9,fit_pad,g_ne", "w_9,h_9,fit_pad,g_ne"),
        ("w_9,dpr_1,q_80", "w_9,q_80"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(Transformation.parse(text)) == canonical


def test_a_transformation_is_a_value() -> None:
    wanted = Transformation(width=400, blur=2.0)
    assert wanted == Transformation(width=400, blur=2)
    assert hash(wanted) == hash(Transformation.parse("w_400,blur_2"))
    assert repr(wanted) == "Transformation(width=400, blur=2)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        wanted.width = 5  # type: ignore[misc]
