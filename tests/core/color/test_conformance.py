"""Colours of converted images, compared with conversions by numpy or full-precision LittleCMS."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab

from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from tests.conftest import missing
from tests.images import encode

FULL = [VariantSpec("full", width=4096, quality=100)]
PATCH = 16  # pixels: large enough for the middle to keep its colour in JPEG and WebP
D50 = (0.9642, 1.0, 0.8249)
# Colorants adapted to D50: Display P3 from Apple's profile, Adobe RGB (1998) from its
# specification, ProPhoto from ROMM.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CMYK_PROFILES = (
    Path("/usr/share/color/icc/ghostscript/default_cmyk.icc"),
    Path("/usr/share/color/icc/ISOcoated_v2_300_bas.icc"),
    Path("/usr/share/color/icc/colord/FOGRA39L_coated.icc"),
)


def s15(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return an ICC 4 profile (ICC.1:2010) with these tags.

    Each tag is four bytes of type followed by its data.
    """
    tags = {b"desc": text("test"), b"cprt": text("none"), b"wtpt": xyz(*D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s", 0, b"none", 0x04200000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    head = head.ljust(68, b"\0") + s15(*D50)
    whole = head.ljust(128, b"\0") + table + body
    return len(whole).to_bytes(4) + whole[4:]


def text(words: str) -> bytes:
    encoded = words.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + s15(*values)


def curve(*parameters: float) -> bytes:
    """Return a curve from a gamma, or from the five parameters of a curve like sRGB's."""
    return (
        b"para"
        + bytes(4)
        + struct.pack(">HH", 3 if len(parameters) == 5 else 0, 0)
        + s15(*parameters)
    )


def rgb_profile(colorants: Any, *parameters: float) -> bytes:
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)
    tone = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(*parameters))
    return profile(b"RGB ", {name: xyz(*colorant) for name, colorant in names} | tone)


def linear(values: Any, *parameters: float) -> Any:
    if len(parameters) == 1:
        return values ** parameters[0]
    gamma, a, b, c, d = parameters
    return np.where(values >= d, (a * values + b) ** gamma, c * values)


def reference(colors: Any, colorants: Any, *parameters: float) -> Any:
    """Convert device colours to sRGB, both from 0 to 1.

    Curves and a matrix convert to XYZ, and their inverses to sRGB, with clipping.
    """
    in_srgb = linear(colors, *parameters) @ np.array(colorants) @ np.linalg.inv(np.array(SRGB))
    clipped = np.clip(in_srgb, 0, 1)
    return np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def patches(colors: Any, mode: str) -> Image.Image:
    """Return an image with one patch for each colour."""
    grid = np.repeat(
        np.repeat(colors.reshape(8, -1, colors.shape[-1]), PATCH, axis=0), PATCH, axis=1
    )
    return Image.fromarray(grid.astype(np.uint8).squeeze(), mode if mode != "RGB" else None)


def centers(image: Image.Image) -> Any:
    array = np.asarray(image.convert("RGB")).astype(float) / 255
    rows, columns = array.shape[0] // PATCH, array.shape[1] // PATCH
    tiles = array.reshape(rows, PATCH, columns, PATCH, 3)[:, 4:-4, :, 4:-4]
    return tiles.mean(axis=(1, 3)).reshape(-1, 3)


def mean_delta_e(data: bytes, expected: Any) -> float:
    result = process(data, FULL)
    assert "icc_invalid" not in result.warnings
    with Image.open(io.BytesIO(result.variants["full"].data)) as image:
        assert "icc_profile" not in image.info
        difference: Any = deltaE_ciede2000
        return float(difference(rgb2lab(centers(image)), rgb2lab(expected)).mean())


def some_colors(channels: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (128, channels))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("colorants", "parameters"),
    [
        pytest.param(P3, SRGB_CURVE, id="Display P3"),
        pytest.param(ADOBE, (2.19921875,), id="Adobe RGB"),
        pytest.param(PROPHOTO, (1.8,), id="ProPhoto RGB"),
        pytest.param(SRGB, SRGB_CURVE, id="sRGB"),
        pytest.param((SRGB[2], SRGB[1], SRGB[0]), SRGB_CURVE, id="red and blue swapped"),
    ],
)
def test_rgb_profiles_are_converted(
    colorants: Any, parameters: tuple[float, ...], image_format: str
) -> None:
    colors = some_colors(3)
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {"lossless": True}
    data = encode(
        patches(colors, "RGB"),
        image_format,
        icc_profile=rgb_profile(colorants, *parameters),
        **options,
    )
    assert mean_delta_e(data, reference(colors / 255, colorants, *parameters)) < 1


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_profiles_work_on_palettes_and_with_alpha(mode: str) -> None:
    colors = some_colors(3)
    image = patches(colors, "RGB").convert(mode, palette=Image.Palette.ADAPTIVE, colors=256)
    if mode == "RGBA":
        image.putpixel((0, 0), (0, 0, 0, 0))
    data = encode(image, "PNG", icc_profile=rgb_profile(P3, *SRGB_CURVE))
    assert mean_delta_e(data, reference(colors / 255, P3, *SRGB_CURVE)) < 1.5


@pytest.mark.parametrize(("mode", "image_format"), [("L", "JPEG"), ("L", "PNG"), ("LA", "PNG")])
def test_gray_profiles_are_converted(mode: str, image_format: str) -> None:
    colors = some_colors(1)
    image = patches(colors, "L").convert(mode)
    if mode == "LA":
        image.putpixel((0, 0), (0, 0))
    data = encode(
        image, image_format, icc_profile=profile(b"GRAY", {b"kTRC": curve(1.0)}), quality=100
    )
    expected = reference(np.repeat(colors / 255, 3, axis=1), SRGB, 1.0)
    assert mean_delta_e(data, expected) < 1


def test_16_bit_gray_is_converted() -> None:
    colors = some_colors(1)
    deep = np.asarray(patches(colors, "L")).astype(np.uint16) * 257
    data = encode(Image.fromarray(deep), "PNG", icc_profile=profile(b"GRAY", {b"kTRC": curve(1.0)}))
    assert mean_delta_e(data, reference(np.repeat(colors / 255, 3, axis=1), SRGB, 1.0)) < 1


@pytest.mark.parametrize(
    "intent", ["PERCEPTUAL", "RELATIVE_COLORIMETRIC", "RELATIVE_COLORIMETRIC with black point"]
)
def test_cmyk_is_close_to_every_colour_managed_rendering(intent: str) -> None:
    path = next((path for path in CMYK_PROFILES if path.exists()), None) or missing(
        "no CMYK profile is installed"
    )
    source, srgb = (
        ImageCms.ImageCmsProfile(str(path)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
    )
    name, *black_point = intent.split(" with ")
    flags = ImageCms.Flags.NOOPTIMIZE | (
        ImageCms.Flags.BLACKPOINTCOMPENSATION if black_point else 0
    )
    printable = patches(some_colors(3), "RGB")  # so that the CMYK values are realistic
    separation = ImageCms.ImageCmsTransform(srgb, source, "RGB", "CMYK").apply(printable)
    exact = ImageCms.ImageCmsTransform(
        source, srgb, "CMYK", "RGB", ImageCms.Intent[name], flags=flags
    )
    data = encode(separation, "JPEG", quality=100, icc_profile=path.read_bytes())
    assert mean_delta_e(data, centers(exact.apply(separation))) < 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_shrunk_image_has_the_colors_of_the_original(mode: str) -> None:
    """The image is shrunk before its colours are converted, so shrinking must keep the profile."""
    color = (
        (40, 200, 90, 128)[-len(mode) :]
        if mode.startswith("L")
        else (40, 200, 90, 128)[: len(mode)]
    )
    made = (
        profile(b"GRAY", {b"kTRC": curve(1.0)})
        if mode.startswith("L")
        else rgb_profile(SRGB[::-1], *SRGB_CURVE)
    )
    data = encode(
        Image.new(mode, (600, 500), color if len(mode) > 1 else color[0]), "PNG", icc_profile=made
    )
    shown = []
    for width in (600, 400, 60):
        result = process(data, [VariantSpec("one", width=width, quality=100)])
        with Image.open(io.BytesIO(result.variants["one"].data)) as image:
            shown.append(np.asarray(image.convert("RGB"))[20, 20].astype(int))
    assert np.ptp(shown, axis=0).max() <= 2
    assert (
        np.abs(shown[0] - np.asarray(Image.new(mode, (1, 1), color).convert("RGB"))[0, 0]).max()
        > 20
    )
