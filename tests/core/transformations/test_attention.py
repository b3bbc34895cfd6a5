from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.transformations.attention import find_busiest
from tests.images import photo

SIZE = Dimensions(300, 200)
Box = tuple[int, int, int, int]


@cache
def draw_scene(seed: int) -> tuple[Image.Image, Box]:
    """Return an image and the box of its subject: something with detail before a calm scene."""
    rng = np.random.default_rng(seed)
    sky, ground = (tuple(rng.integers(60, 220, 3).tolist()) for _ in range(2))
    image = Image.new("RGB", SIZE, sky)
    draw = ImageDraw.Draw(image)
    horizon = int(rng.integers(75, 165))
    draw.rectangle((0, horizon, *SIZE), fill=ground)
    for _ in range(5):  # hills, out of focus
        x, y = int(rng.integers(0, 300)), int(rng.integers(horizon - 30, 200))
        color = tuple(rng.integers(60, 220, 3).tolist())
        draw.ellipse((x - 45, y - 20, x + 45, y + 20), fill=color)
    image = image.filter(ImageFilter.GaussianBlur(7))
    noise = rng.normal(0, 5, (SIZE.height, SIZE.width, 3))
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    width, height = rng.integers(30, 75, 2).tolist()
    left = int(rng.integers(5, SIZE.width - width - 5))
    top = int(rng.integers(5, SIZE.height - height - 5))
    draw = ImageDraw.Draw(image)
    draw.ellipse((left, top, left + width, top + height), fill=(30, 30, 40))
    for _ in range(18):
        x = left + int(rng.integers(width))
        y = top + int(rng.integers(height))
        color = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
    return image, (left - 4, top - 4, left + width + 4, top + height + 4)


def kept_part(box: Box, window: Box) -> float:
    """Return how much of *box* is in *window*."""
    width = min(box[2], window[2]) - max(box[0], window[0])
    height = min(box[3], window[3]) - max(box[1], window[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(width, 0) * max(height, 0) / area


def window_of(image: Image.Image, inner: Dimensions) -> Box:
    left, top = find_busiest(image, (0, 0, *image.size), Dimensions(*image.size), inner)
    return left, top, left + inner.width, top + inner.height


@pytest.mark.parametrize("inner", [(120, 200), (300, 100)])
def test_the_subject_of_most_scenes_is_kept(inner: tuple[int, int]) -> None:
    kept = []
    for seed in range(30):
        image, box = draw_scene(seed)
        kept.append(kept_part(box, window_of(image, Dimensions(*inner))))
    assert sum(part >= 0.9 for part in kept) >= 0.85 * len(kept)


@pytest.mark.parametrize("place", [0, 100, 450, 500])
def test_there_is_space_around_the_subject(place: int) -> None:
    image = Image.new("RGB", (600, 200), "white")
    image.paste(photo(100, 100).filter(ImageFilter.SHARPEN), (place, 50))
    left, _, right, _ = window_of(image, Dimensions(300, 200))
    assert left <= max(place - 20, 0)
    assert min(place + 120, 600) <= right


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_without_a_clear_subject_it_is_the_middle(mode: str) -> None:
    plain = Image.new(mode, (600, 200), "teal")
    assert window_of(plain, Dimensions(300, 200))[0] == 150
    pixels = np.random.default_rng(0).integers(0, 256, (200, 600, len(mode)), np.uint8)
    assert window_of(Image.fromarray(pixels), Dimensions(300, 200))[0] == 150


def test_another_window_needs_a_clear_advantage() -> None:
    pixels = np.full((200, 600, 3), 128, np.uint8)
    pixels[::2, :300] = 228
    pixels[::2, 300:] = 233
    stripes = Image.fromarray(pixels).resize((60, 20), Image.Resampling.NEAREST)
    assert window_of(stripes, Dimensions(30, 20))[0] == 15


def test_what_is_transparent_has_no_detail() -> None:
    pixels: Any = np.random.default_rng(0).integers(0, 256, (200, 600, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[50:150, 450:550] = (255, 0, 0, 255)
    left, _, right, _ = window_of(Image.fromarray(pixels), Dimensions(300, 200))
    assert left <= 450
    assert right >= 550
