"""Transformations of whole files: with their orientation, their colours and their limits."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import process, transform
from imageprocessor.core.transformations.apply import apply
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.core.variants import DEFAULT_VARIANTS, VariantSpec
from imageprocessor.errors import InvalidTransformationError
from tests.core.color.test_conformance import P3, SRGB, SRGB_CURVE, linear, rgb_profile
from tests.core.pngs import RGB, raw_png
from tests.core.transformations.test_grammar import transformations
from tests.images import encode, oriented, photo, png_bomb

OPERATIONS = [
    "crop_20:10:90:60",
    "crop_10p:0p:50p:50p,w_40",
    "trim_1,w_60",
    "rot_90,w_60",
    "rot_270,flip_v,h_60",
    "flip_h",
    "w_60,h_60,fit_cover,g_ne",
    "w_60,h_60,fit_cover,g_auto",
    "w_60,h_60,fit_cover,g_30:20",
    "w_60,h_60,fit_pad,bg_ffffff",
    "w_60,h_60,fit_fill",
    "w_300,up_1",
    "w_40,dpr_2,pad_5,bg_204080",
    "bri_20,w_60",
    "con_30",
    "sat_-50",
    "gray_1,w_60",
    "sepia_1",
    "blur_3",
    "sharp_50,w_60",
    "pix_8",
    "wm_logo:se:80:30",
    "r_20,bg_ffffff",
]


def scene() -> Image.Image:
    """Return an image without symmetry, with soft edges and colours that P3 and sRGB have."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(70, 190, (8, 11, 3), np.uint8))
    image = small.resize((160, 120), Image.Resampling.BICUBIC)
    image.paste((150, 140, 90), (0, 0, 160, 8))
    image.paste((150, 140, 90), (0, 0, 8, 120))
    return image


def in_p3(image: Image.Image) -> Image.Image:
    light = linear(np.asarray(image) / 255, *SRGB_CURVE) @ np.array(SRGB)
    p3 = (light @ np.linalg.inv(np.array(P3))).clip(0, 1)
    levels = np.where(p3 <= 0.0031308, 12.92 * p3, 1.055 * p3 ** (1 / 2.4) - 0.055)
    return Image.fromarray((levels * 255).round().astype(np.uint8))


def in_16_bits(image: Image.Image) -> bytes:
    samples = (np.asarray(image).astype(">u2") * 257).reshape(image.height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return raw_png(image.size, 16, RGB, zlib.compress(rows))


PLAIN = encode(scene(), "PNG")
LOGO = encode(photo(60, 40).convert("RGBA"), "PNG")
SOURCES = {
    "orientation 3": oriented(scene(), 3, "PNG"),
    "orientation 5": oriented(scene(), 5, "WEBP", lossless=True),
    "orientation 6": oriented(scene(), 6, "PNG"),
    "orientation 8 in a JPEG": oriented(scene(), 8, quality=98, subsampling=0),
    "Display P3": encode(in_p3(scene()), "PNG", icc_profile=rgb_profile(P3, *SRGB_CURVE)),
    "16 bits": in_16_bits(scene()),
}


def made(data: bytes, operations: str) -> Image.Image:
    variant = transform(data, f"{operations},q_100", watermarks={"logo": LOGO})
    image = Image.open(io.BytesIO(variant.data))
    image.load()
    assert image.size == (variant.width, variant.height)
    assert not {"exif", "icc_profile", "xmp"} & set(image.info)
    return image


@pytest.fixture(scope="module")
def expected() -> dict[str, Image.Image]:
    return {operations: made(PLAIN, operations) for operations in OPERATIONS}


@pytest.mark.parametrize("operations", OPERATIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_any_source_gives_the_upright_image_in_its_right_colours(
    source: str, operations: str, expected: dict[str, Image.Image]
) -> None:
    image = made(SOURCES[source], operations)
    plain = expected[operations]
    assert (image.size, image.mode) == (plain.size, plain.mode)
    difference: Any = deltaE_ciede2000
    colors = [rgb2lab(np.asarray(each.convert("RGB"))) for each in (image, plain)]
    assert difference(*colors).mean() < 2


def test_a_size_with_operations_is_the_same_file() -> None:
    data = encode(photo(300, 200), "JPEG", quality=90)
    text = "crop_10p:10p:80p:80p,w_90,h_90,fit_cover,g_auto,sat_20,r_12"
    options = Transformation.parse(text).list_changes()
    specs = [VariantSpec("card", **options), VariantSpec("plain", width=90)]
    result = process(data, specs, threads=2)
    alone = transform(data, text)
    assert (alone.width, alone.height) == (90, 90)
    card = result.variants["card"]
    assert (card.width, card.height) == (90, 90)
    assert str(specs[0]) == text
    only = process(data, specs[:1]).variants["card"]
    assert only.data == alone.data
    assert alone == transform(data, Transformation.parse(text))


def test_the_result_has_the_facts_and_warnings_of_process() -> None:
    limits = Limits(mime_types=frozenset({"image/gif"}))
    data = encode(
        photo(30, 20), "GIF", save_all=True, append_images=[photo(20, 30).resize((30, 20))]
    )
    for operations in ("w_40,anim_keep", "w_40", "w_20,bytes_1"):
        spec = VariantSpec("any", **Transformation.parse(operations).list_changes())
        expected = process(data, [spec], limits)
        variant = expected.variants["any"]
        made = transform(data, operations, limits)
        assert made.warnings == expected.warnings != ()
        assert made.describe() == {**variant.describe(), "warnings": list(expected.warnings)}
        assert made.data == variant.data


def test_sizes_with_operations_leave_the_others_and_the_colour_as_they_are() -> None:
    data = encode(photo(700, 500), "JPEG")
    plain = process(data)
    gray = VariantSpec("gray", width=200, grayscale=True, radius="max", blur=3)
    both = process(data, [gray, *DEFAULT_VARIANTS])
    assert list(both.variants) == ["gray", *plain.variants]
    assert {name: both.variants[name] for name in plain.variants} == plain.variants
    assert both.dominant_color == plain.dominant_color


def test_a_large_jpeg_is_decoded_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def note_size(wanted: Any, image: Image.Image, *others: Any) -> Image.Image:
        decoded.append(image.size)
        return apply(wanted, image, *others)

    monkeypatch.setattr("imageprocessor.core.steps.apply", note_size)
    image = photo(40, 30).resize((1600, 1200))
    operations = "crop_400:0:1200:1200,w_60"
    small = transform(encode(image, "JPEG", quality=95), operations)
    assert decoded == [(200, 150)]
    at_once = image.crop((400, 0, 1600, 1200)).resize((60, 60), Image.Resampling.LANCZOS)
    with (
        Image.open(io.BytesIO(small.data)) as opened,
        Image.open(io.BytesIO(encode(at_once, "WEBP", quality=85))) as expected,
    ):
        difference = np.asarray(opened).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize(
    ("specs", "warned"),
    [
        ([VariantSpec("a", width=400, rotate=90)], True),
        ([VariantSpec("a", width=100, rotate=90)], False),
        ([VariantSpec("a", width=100, crop="0:0:99:50")], True),
        ([VariantSpec("a", width=400, enlarge=True)], False),
        ([VariantSpec("a", blur=3)], False),
        ([VariantSpec("a", aspect_ratio="1:1", fit="cover")], False),
    ],
)
def test_warning_counts_what_the_operations_leave(specs: list[VariantSpec], warned: bool) -> None:
    result = process(encode(photo(200, 100), "PNG"), specs)
    assert ("not_enlarged" in result.warnings) == warned


def test_without_operations_the_image_keeps_its_size() -> None:
    variant = transform(PLAIN, "")
    assert (variant.width, variant.height, variant.format) == (160, 120, "webp")


def test_a_watermark_is_an_image_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "logo.png"
    path.write_bytes(oriented(Image.new("RGB", (20, 40), "red"), 6, "PNG"))
    variant = transform(
        encode(Image.new("RGB", (80, 80)), "PNG"),
        "wm_logo:nw:100:50,q_100",
        watermarks={"logo": path},
    )
    with Image.open(io.BytesIO(variant.data)) as image:
        red = np.asarray(image)[..., 0] > 128
    assert red[:40, :20].mean() > 0.95
    assert red[:, 24:].sum() == red[44:].sum() == 0


@pytest.mark.parametrize(
    ("watermarks", "message"),
    [
        ({}, "Unknown watermark 'logo'. Known: there are none."),
        ({"b": b"", "a": b""}, "Unknown watermark 'logo'. Known: a, b."),
        ({"logo": b"GIF89a" + bytes(99)}, "Watermark 'logo' cannot be used: The file is image/gif"),
        ({"logo": png_bomb(60_000, 60_000)}, "Watermark 'logo' cannot be used: The image is 60000"),
        ({"logo": LOGO[:80]}, "Watermark 'logo' cannot be used: "),
    ],
)
def test_a_missing_or_bad_watermark_is_refused(watermarks: dict[str, bytes], message: str) -> None:
    with pytest.raises(InvalidTransformationError, match=message):
        transform(PLAIN, "wm_logo:se:80:25", watermarks=watermarks)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ("crop_100:0:61:10", "crop 100:0:61:10 is not within the image of 160 x 120 pixels"),
        ("crop_100:0:61:10,trim_1", "is not within the image"),
        ("w_2000,up_1", "The result would have 2000 x 1500 pixels"),
        ("pad_700", "at most 16383 on a side, and 1000000 in all"),
    ],
)
def test_operations_that_do_not_suit_the_image_are_refused(operations: str, message: str) -> None:
    with pytest.raises(InvalidTransformationError, match=message):
        transform(PLAIN, operations, Limits(max_pixels=1_000_000))


def test_sideways_images_are_cropped_as_they_are_seen() -> None:
    data = oriented(scene(), 6, "PNG")
    assert transform(data, "crop_150:110:10:10").width == 10
    with pytest.raises(InvalidTransformationError, match="160 x 120"):
        transform(data, "crop_110:150:10:10")


@settings(max_examples=60, deadline=None)
@given(transformations(), st.sampled_from(["RGB", "RGBA"]))
def test_any_operations_give_an_image_or_a_coded_error(wanted: Transformation, mode: str) -> None:
    data = encode(photo(40, 30).convert(mode), "PNG")
    limits = Limits(max_pixels=100_000)
    watermarks = {wanted.watermark_name: LOGO} if wanted.watermark_name else {}
    try:
        variant = transform(data, wanted, limits, watermarks)
    except InvalidTransformationError:
        return
    with Image.open(io.BytesIO(variant.data)) as image:
        assert image.width * image.height <= limits.max_pixels
