"""Colours, filters and overlays against the same computed with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.filters import gaussian

from imageprocessor.core.transformations import colour, filters, overlay
from tests.images import photo

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


def colors(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (40, 50, len(mode)), np.uint8))


def saturated(pixels: Any, factor: float) -> Any:
    gray = (pixels @ LUMINANCE)[..., None]
    return gray + (pixels - gray) * factor


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("percent", [-100, -33.5, 20, 100])
def test_colour_changes_are_those_of_css(percent: float, mode: str) -> None:
    image = colors(mode)
    pixels = np.asarray(image)[..., :3].astype(float)
    factor = 1 + percent / 100
    for made, expected in (
        (colour.change_brightness(image, percent), pixels * factor),
        (colour.change_contrast(image, percent), (pixels - 127.5) * factor + 127.5),
        (colour.change_saturation(image, percent), saturated(pixels, factor)),
        (colour.to_grayscale(image), saturated(pixels, 0)),
        (colour.to_sepia(image), pixels @ SEPIA.T),
    ):
        assert made.mode == mode
        levels = np.asarray(made).astype(float)
        assert np.abs(levels[..., :3] - expected.clip(0, 255)).max() <= 0.51
        assert np.array_equal(levels[..., 3:], np.asarray(image)[..., 3:])


@pytest.mark.parametrize(("sigma", "levels"), [(0.4, 12), (1, 7), (2.5, 7), (8, 7), (30, 10)])
def test_blur_is_gaussian(sigma: float, levels: float) -> None:
    image = photo(240, 180)
    image.paste((255, 255, 255), (120, 0, 240, 180))
    filtered: Any = gaussian
    expected = filtered(np.asarray(image).astype(float), sigma, mode="nearest", channel_axis=-1)
    difference = np.abs(np.asarray(filters.blur(image, sigma)) - expected)
    assert difference.max() < levels  # three box filters approximate the Gaussian one
    assert difference.mean() < 1.5


def edge_of_red(hidden: tuple[int, int, int]) -> Image.Image:
    """Return red pixels beside transparent ones, whose colour must not show."""
    image = Image.new("RGBA", (40, 20), (*hidden, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 20))
    return image


@pytest.mark.parametrize("name", ["blur", "sharpen", "pixelate"])
def test_filters_hide_the_colour_of_what_is_transparent(name: str) -> None:
    make = getattr(filters, name)
    made = np.asarray(make(edge_of_red((0, 255, 0)), 3)).astype(int)
    other = np.asarray(make(edge_of_red((0, 0, 255)), 3)).astype(int)
    visible = made[..., 3] > 8
    assert np.array_equal(made[visible], other[visible])
    assert (made[visible][:, 0] > 235).all()
    assert (made[visible][:, 1:3] == 0).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_sharpen_adds_the_difference_from_a_blurred_image(mode: str) -> None:
    image = photo(60, 40).convert(mode)
    pixels = np.asarray(image).astype(float)
    blurred = np.asarray(filters.blur(image, 1)).astype(float)
    expected = (pixels + 0.6 * (pixels - blurred)).clip(0, 255)
    made = np.asarray(filters.sharpen(image, 60)).astype(float)
    assert np.abs(made - expected).max() <= 1


def test_blocks_have_the_mean_colour_of_their_pixels() -> None:
    image = photo(50, 40)
    pixels = np.asarray(image).astype(float)
    made = np.asarray(filters.pixelate(image, 16)).astype(float)
    for top in range(0, 40, 16):
        for left in range(0, 50, 16):
            block = (slice(top, top + 16), slice(left, left + 16))
            mean = pixels[block].mean(axis=(0, 1))
            assert np.abs(made[block] - mean).max() <= 1


@pytest.mark.parametrize("side", [50, 51, 1000])
def test_one_block_may_be_larger_than_the_image(side: int) -> None:
    made = np.asarray(filters.pixelate(photo(50, 40), side))
    assert (made == made[0, 0]).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_watermark_is_drawn_with_its_alpha_and_opacity(mode: str) -> None:
    image = colors(mode)
    mark = Image.fromarray(np.asarray(colors("RGBA"))[:10, :20])
    before = image.tobytes()
    made = np.asarray(overlay.draw_over(image, mark, (25, 12), 0.5)).astype(float)
    assert image.tobytes() == before
    expected = np.dstack([np.asarray(image), np.full((40, 50), 255)])[..., :4].astype(float)
    below = expected[12:22, 25:45]
    above = np.asarray(mark).astype(float)
    above_alpha, below_alpha = above[..., 3:] / 255 * 0.5, below[..., 3:] / 255
    alpha = above_alpha + below_alpha * (1 - above_alpha)
    mixed = above[..., :3] * above_alpha + below[..., :3] * below_alpha * (1 - above_alpha)
    below[..., :3] = mixed / alpha
    below[..., 3:] = alpha * 255
    visible = expected[..., 3] > 20
    difference = np.abs(made - expected[..., : made.shape[-1]])[visible]
    assert difference.max() <= 3


@pytest.mark.parametrize("radius", [1, 2, 7, 40, 300])
def test_a_corner_is_as_opaque_as_the_part_of_each_pixel_inside_the_circle(radius: int) -> None:
    image = overlay.round_corners(Image.new("RGB", (640, 620), "teal"), radius)
    alpha = np.asarray(image)[..., 3] / 255
    samples = (np.arange(radius * 8) + 0.5) / 8
    inside = np.hypot(samples[:, None] - radius, samples[None, :] - radius) <= radius
    coverage = inside.reshape(radius, 8, radius, 8).mean(axis=(1, 3))
    difference = np.abs(alpha[:radius, :radius] - coverage)
    assert difference.max() < 0.26
    assert difference.mean() < 0.03
    assert np.array_equal(alpha, alpha[:, ::-1])
    assert np.array_equal(alpha, alpha[::-1])
    assert (alpha[radius : 620 - radius] == 1).all()


def test_the_largest_radius_makes_a_circle_of_a_square() -> None:
    image = overlay.round_corners(Image.new("RGBA", (200, 200), (9, 9, 9, 128)), 16_383)
    alpha = np.asarray(image)[..., 3]
    assert alpha.sum() / 128 == pytest.approx(np.pi * 100**2, rel=0.002)
    assert alpha.max() == 128


def test_a_pixel_has_no_corners() -> None:
    dot = Image.new("RGB", (1, 1))
    assert overlay.round_corners(dot, 5) is dot
