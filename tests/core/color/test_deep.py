from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from imageprocessor.core.color import deep
from imageprocessor.core.color.conversion import to_srgb
from imageprocessor.core.color.icc import GRAY_CURVE, gamma_curve, read_tags, write_profile
from imageprocessor.core.color.spaces import SRGB
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.limits import Limits
from imageprocessor.core.validate import validate
from tests.core.pngs import ADAM7, CHANNELS, GRAY, GRAY_ALPHA, RGB, RGBA, raw_png
from tests.images import png_chunk

DEEP = (GRAY, GRAY_ALPHA, RGB, RGBA)
LINEAR = png_chunk(b"gAMA", (100_000).to_bytes(4))


def filtered(samples: Any) -> bytes:
    """Return the rows of a PNG of 16 bits, with each of the five filters in turn."""
    stride = 2 * samples.shape[2]
    previous = np.zeros(samples.shape[1] * stride, int)
    rows = []
    for number, row in enumerate(samples):
        current = np.frombuffer(row.astype(">u2").tobytes(), np.uint8).astype(int)
        left = np.concatenate([np.zeros(stride, int), current[:-stride]])
        corner = np.concatenate([np.zeros(stride, int), previous[:-stride]])
        estimate = left + previous - corner
        distances = np.abs([estimate - left, estimate - previous, estimate - corner])
        paeth = np.choose(distances.argmin(axis=0), [left, previous, corner])
        prediction = [0 * left, left, previous, (left + previous) // 2, paeth][number % 5]
        rows.append(bytes([number % 5]) + ((current - prediction) % 256).astype(np.uint8).tobytes())
        previous = current
    return b"".join(rows)


def png16(samples: Any, color_type: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    height, width, _ = samples.shape
    passes = [samples]
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    pixels = zlib.compress(b"".join(filtered(part) for part in passes if part.size))
    return raw_png((width, height), 16, color_type, pixels, *chunks, interlaced=interlaced)


def converted(data: bytes) -> Any:
    info = validate(data)
    image = decode(unpack(io.BytesIO(data), info), info, Limits())
    return np.asarray(to_srgb(image)[0]).astype(int)


def random_samples(color_type: int) -> Any:
    dark = np.random.default_rng(0).integers(0, 3000, (24, 20, CHANNELS[color_type]))
    dark[0, 0, -1] = 0x8000  # an alpha that is not opaque
    return dark


def linear_to_srgb(samples: Any) -> Any:
    light = samples / 65535
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color_type", DEEP)
def test_dark_levels_of_a_linear_image_are_kept(
    color_type: int, interlaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "_BAND_PIXELS", 240)
    samples = random_samples(color_type)
    pixels = converted(png16(samples, color_type, LINEAR, interlaced=interlaced))
    colors = 3 if color_type in {RGB, RGBA} else 1
    assert np.abs(pixels[..., :3] - linear_to_srgb(samples[..., :colors])).max() <= 1
    if color_type in {GRAY_ALPHA, RGBA}:
        assert (pixels[..., 3] == samples[..., -1] >> 8).all()


@pytest.mark.parametrize("color_type", [GRAY, RGB])
def test_dark_levels_are_kept_with_an_icc_profile(color_type: int) -> None:
    linear = gamma_curve(1.0)
    if color_type == GRAY:
        profile = write_profile({GRAY_CURVE: linear})
    else:
        profile = SRGB._replace(curve=linear).profile("RGB")
    samples = random_samples(color_type)
    chunk = png_chunk(b"iCCP", b"linear\0\0" + zlib.compress(profile))
    pixels = converted(png16(samples, color_type, chunk))
    assert np.abs(pixels - linear_to_srgb(samples)).max() <= 1


def test_only_the_transparent_color_is_transparent_in_a_linear_image() -> None:
    samples = random_samples(RGB)
    samples[3, 4] = (1000, 2000, 3000)
    samples[5, 6] = (1000, 2000, 3001)
    key = png_chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    pixels = converted(png16(samples, RGB, LINEAR, key))
    assert np.argwhere(pixels[..., 3] == 0).tolist() == [[3, 4]]
    assert np.abs(pixels[..., :3] - linear_to_srgb(samples)).max() <= 1


@pytest.mark.parametrize("color_type", DEEP)
def test_plain_images_keep_their_high_bytes_in_one_decode(
    color_type: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(deep, "_decode_low_bytes")
    samples = 20 * random_samples(color_type) % 65536
    mode = "L" if color_type in {GRAY, GRAY_ALPHA} else "RGB"
    srgb = png_chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB.profile(mode)))
    for chunks in ((), (srgb,)):
        pixels = converted(png16(samples, color_type, *chunks))
        if mode == "L":
            pixels = pixels[..., :1] if color_type == GRAY else pixels[..., 2:]
        assert (pixels == samples >> 8).all()


def test_a_profile_with_damaged_curves_is_applied_at_8_bits() -> None:
    profile = SRGB._replace(curve=gamma_curve(1.0)).profile("RGB")
    assert read_tags(profile)
    broken = profile.replace(b"para", b"junk")
    chunk = png_chunk(b"iCCP", b"junk\0\0" + zlib.compress(broken))
    samples = random_samples(RGB)
    assert (converted(png16(samples, RGB, chunk)) == samples >> 8).all()
