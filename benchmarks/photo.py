"""Draw the photos for the benchmarks: always the same, and as hard to compress as real ones."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.float32]
OBJECTS = 400
GRAIN = 3.0  #: standard deviation of the noise, in levels of 255
SHOT_NOISE, READ_NOISE = 0.25, 4.0  #: variance of a camera's noise, per level and in the dark


@cache
def encode_photo(width: int = 4000, height: int = 3000, image_format: str = "JPEG") -> bytes:
    """Return :func:`draw_photo` as a file; a JPEG of quality 90 and 4000 × 3000 px has 1.9 MB."""
    file = BytesIO()
    draw_photo(width, height).save(file, image_format, quality=90)
    return file.getvalue()


@cache
def encode_noisy_photo(width: int = 4288, height: int = 2848) -> bytes:
    """Return a JPEG as a camera makes it in poor light, a little wider than the largest size.

    That is the most expensive kind of photo for us, compared with sharp: most pixels are resized
    twice, and WebP's effort matters less the more noise there is to encode.
    """
    file = BytesIO()
    noisy = add_camera_noise(draw_photo(width, height))
    noisy.save(file, "JPEG", quality=90, subsampling="4:2:2")
    return file.getvalue()


def add_camera_noise(photo: Image.Image, seed: int = 2) -> Image.Image:
    """Return *photo* with noise that grows with the light, and is coarse in red and blue.

    A sensor has one red and one blue pixel for two green ones.
    """
    random = np.random.default_rng(seed)
    levels = np.asarray(photo, np.float32)
    noise = np.empty_like(levels)
    half = (photo.height // 2, photo.width // 2)
    for channel, shape in enumerate((half, levels.shape[:2], half)):
        drawn = Image.fromarray(random.standard_normal(shape, np.float32))
        smooth = drawn.resize(photo.size, Image.Resampling.BILINEAR)
        noise[:, :, channel] = np.asarray(smooth)
    noise *= np.sqrt(levels * SHOT_NOISE + READ_NOISE)
    return Image.fromarray(np.clip(levels + noise, 0, 255).astype(np.uint8))


def draw_photo(width: int, height: int, seed: int = 1) -> Image.Image:
    """Draw soft light whose strength falls with its frequency, objects with edges, and grain."""
    random = np.random.default_rng(seed)
    luma = _scale(_sum_octaves(random, width, height, 4, width), 45) + 125
    objects = _draw_objects(random, width, height)
    grain = random.standard_normal((height, width), np.float32) * GRAIN
    luma += objects + grain
    blue = _scale(_sum_octaves(random, width, height, 3, 64), 18)
    red = _scale(_sum_octaves(random, width, height, 3, 64), 18)
    green_plane = luma - 0.344 * blue - 0.714 * red
    rgb = np.stack([luma + 1.402 * red, green_plane, luma + 1.772 * blue], axis=-1)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _sum_octaves(
    random: np.random.Generator, width: int, height: int, coarsest: int, finest: int
) -> Plane:
    """Sum planes of smooth noise, each with twice the cells of the last and half its strength."""
    planes: Plane = np.zeros((height, width), np.float32)
    cells = coarsest
    while cells < finest:
        rows = max(2, round(height * cells / width))
        coarse = Image.fromarray(random.standard_normal((rows, cells), np.float32))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        planes += np.asarray(smooth) / cells
        cells *= 2
    return planes


def _scale(plane: Plane, deviation: float) -> Plane:
    scaled: Plane = (plane - plane.mean()) / plane.std() * np.float32(deviation)
    return scaled


def _draw_objects(random: np.random.Generator, width: int, height: int) -> Plane:
    mask = Image.new("L", (width, height), 128)
    draw = ImageDraw.Draw(mask)
    for _ in range(OBJECTS):
        lowest, highest = (0, 0, width // 200), (width, height, width // 12)
        x, y, across = map(int, random.integers(lowest, highest))
        down = across * random.uniform(0.3, 1)
        gray = int(random.integers(90, 166))
        draw.ellipse((x - across, y - down, x + across, y + down), fill=gray)
    return np.asarray(mask, np.float32) - 128
