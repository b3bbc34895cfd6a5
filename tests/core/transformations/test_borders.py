from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations.borders import extend, find_content


def test_trim_finds_the_content_within_a_noisy_border() -> None:
    pixels = np.full((60, 80, 3), 200, np.uint8)
    pixels += np.random.default_rng(0).integers(0, 9, pixels.shape, np.uint8)
    pixels[20:50, 10:70] = (10, 200, 200)
    assert find_content(Image.fromarray(pixels)) == (10, 20, 70, 50)


def test_trim_ignores_the_colour_of_what_is_transparent() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[30:40, 30:50, 3] = 255
    assert find_content(Image.fromarray(pixels)) == (30, 30, 50, 40)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_image_of_one_colour_is_not_trimmed(mode: str) -> None:
    assert find_content(Image.new(mode, (9, 5), "teal")) == (0, 0, 9, 5)


def test_a_background_lies_behind_what_is_transparent() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 4), np.uint8)
    made = extend(Image.fromarray(pixels), Dimensions(40, 30), (4, 6), (200, 100, 0, 255))
    assert made.mode == "RGB"
    expected = np.full((30, 40, 3), (200, 100, 0), float)
    alpha = pixels[..., 3:] / 255
    part = expected[6:26, 4:34]
    part[:] = pixels[..., :3] * alpha + part * (1 - alpha)
    assert np.abs(np.asarray(made) - expected).max() <= 1


def test_a_translucent_background_is_composited_too() -> None:
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    made = extend(half, Dimensions(3, 1), (1, 0), (0, 0, 255, 128))
    assert made.getpixel((0, 0)) == (0, 0, 255, 128)
    red, _, blue, alpha = made.getpixel((1, 0))  # type: ignore[misc]
    assert alpha == pytest.approx(192, abs=1)
    assert (red, blue) == pytest.approx((170, 85), abs=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_without_a_background_the_canvas_is_transparent(mode: str) -> None:
    made = extend(Image.new(mode, (2, 2), "teal"), Dimensions(4, 2), (1, 0), None)
    assert np.asarray(made)[0].tolist() == [[0] * 4, *[[0, 128, 128, 255]] * 2, [0] * 4]
