from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from imageprocessor.core.appearance.placeholder import Placeholder, make_placeholder
from imageprocessor.core.appearance.sample import take_sample
from tests.images import photo


def open_url(placeholder: Placeholder) -> Image.Image:
    head, _, data = placeholder.data_url.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(b64decode(data, validate=True)))


def noise(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, len(mode)))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (100, 1), (31, 32), (100, 75), (64, 100)])
def test_data_url_is_a_small_copy(size: tuple[int, int]) -> None:
    image = photo(10, 8).resize(size)
    placeholder = make_placeholder(image)
    with open_url(placeholder) as tiny:
        assert tiny.format == "WEBP"
        assert max(tiny.size) <= 32
        assert tiny.size == image.reduce(max(1, round(size[0] / tiny.width))).size
        enlarged = np.asarray(tiny.convert("RGB").resize(size)).astype(int)
    assert np.abs(enlarged - np.asarray(image)).mean() < 16
    assert len(placeholder.data_url) <= 400


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_data_url_of_noise_is_smaller_instead_of_too_long(mode: str) -> None:
    placeholder = make_placeholder(noise(mode))
    with open_url(placeholder) as tiny:
        assert (tiny.mode, tiny.width) in {("RGB", 16), ("RGBA", 8)}
    assert len(placeholder.data_url) <= 400


def test_thumbhash_is_base64_of_the_small_copy() -> None:
    hashes = [make_placeholder(image).thumbhash for image in (photo(100, 75), photo(50, 38))]
    for digest in hashes:
        assert 20 < len(b64decode(digest, validate=True)) < 26


@pytest.mark.parametrize(
    ("size", "sampled"),
    [
        ((1, 1), (1, 1)),
        ((100, 100), (100, 100)),
        ((101, 40), (51, 20)),
        ((1025, 700), (65, 44)),
        ((4000, 3000), (63, 47)),
        ((16384, 1), (64, 1)),
    ],
)
def test_sample_is_the_whole_image_at_most_100_pixels_wide_and_high(
    size: tuple[int, int], sampled: tuple[int, int]
) -> None:
    image = photo(6, 4).resize(size)
    sample = take_sample(image)
    assert sample is not image
    assert sample.size == sampled
    expected = np.asarray(image.resize(sampled, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(sample) - expected).mean() < 2
