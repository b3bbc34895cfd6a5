from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.subjects import Mark, crop_with_auto, is_kept, list_crops, open_image, read_marks
from imageprocessor.core.geometry import Dimensions
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


def crop(image: Image.Image, size: tuple[int, int]) -> Box:
    left, top = crop_with_auto(image, Dimensions(*size))
    return left, top, left + size[0], top + size[1]


@pytest.mark.parametrize("size", [(120, 200), (300, 100)])
def test_the_subject_of_most_scenes_is_kept(size: tuple[int, int]) -> None:
    kept = 0
    for seed in range(30):
        image, box = draw_scene(seed)
        percent = tuple(side * 100 / SIZE[index % 2] for index, side in enumerate(box))
        mark = Mark("drawn", "", "", (percent[0], percent[1], percent[2], percent[3]))
        window = Dimensions(*size)
        kept += is_kept(image, mark, crop_with_auto(image, window), window)
    assert kept >= 0.85 * 30


def test_the_subject_of_most_photos_is_kept() -> None:
    """The others of the table are not installed with the tests; see benchmarks/subjects.py."""
    folder = Path(skimage.__file__).parents[1]
    kept = []
    for mark in read_marks():
        if mark.source == "scikit-image":
            image = open_image(folder / mark.path)
            for _, size in list_crops(image, mark):
                kept.append(is_kept(image, mark, crop_with_auto(image, size), size))
    assert len(kept) >= 9
    assert sum(kept) >= 0.85 * len(kept)


@pytest.mark.parametrize("place", [0, 100, 450, 500])
def test_there_is_space_around_the_subject(place: int) -> None:
    image = Image.new("RGB", (600, 200), "white")
    image.paste(photo(100, 100).filter(ImageFilter.SHARPEN), (place, 50))
    left, _, right, _ = crop(image, (300, 200))
    assert left <= max(place - 20, 0)
    assert min(place + 120, 600) <= right


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_without_a_subject_it_is_about_the_middle(mode: str) -> None:
    plain = Image.new(mode, (600, 200), "teal")
    assert crop(plain, (300, 200))[0] == 150
    pixels = np.random.default_rng(0).integers(0, 256, (200, 600, len(mode)), np.uint8)
    left, _, _, _ = crop(Image.fromarray(pixels), (300, 200))
    assert abs(left - 150) <= 30


def test_an_even_texture_is_no_subject() -> None:
    pixels = np.full((200, 600, 3), 128, np.uint8)
    pixels[::2, :300] = 228
    pixels[::2, 300:] = 233
    stripes = Image.fromarray(pixels).resize((60, 20), Image.Resampling.NEAREST)
    assert crop(stripes, (30, 20))[0] == 15


def test_what_is_transparent_has_no_detail() -> None:
    pixels: Any = np.random.default_rng(0).integers(0, 256, (200, 600, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[50:150, 450:550] = (255, 0, 0, 255)
    left, _, right, _ = crop(Image.fromarray(pixels), (300, 200))
    assert left <= 450
    assert right >= 550


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (3, 1), (3000, 2)])
def test_narrow_images_are_cropped_too(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "teal")
    half = (size[0] // 2, size[1]) if size[0] > 1 else (1, size[1] // 2)
    left, top, right, bottom = crop(image, half)
    assert (left, top) == ((size[0] - half[0]) // 2, (size[1] - half[1]) // 2)
    assert right <= size[0]
    assert bottom <= size[1]
