from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops

from imageprocessor.core.geometry import Crop, Dimensions
from imageprocessor.core.resize import resize, resize_in_bands, resize_to_each, shrink
from tests.images import photo

ORIGINAL = Dimensions(600, 400)
SMALL = Crop(ORIGINAL, Dimensions(60, 40))
LARGE = Crop(ORIGINAL, Dimensions(300, 200))
SQUARE = Crop(Dimensions(400, 400), Dimensions(100, 100))


@pytest.mark.parametrize("size", [(50, 700), (333, 511), (400, 900)])
def test_bands_leave_no_seams(size: tuple[int, int]) -> None:
    image = photo(40, 90).resize((400, 900))
    at_once = resize(image, Dimensions(*size), resampling=Image.Resampling.BICUBIC)
    in_bands = resize_in_bands(image, Dimensions(*size))
    difference = np.asarray(ImageChops.difference(at_once, in_bands))
    assert difference.max() <= 3


def test_large_images_look_as_by_lanczos() -> None:
    image = photo(2700, 1800)
    size = Dimensions(2600, 1733)
    by_lanczos = image.resize(size, Image.Resampling.LANCZOS)
    difference = np.asarray(ImageChops.difference(shrink(image, size), by_lanczos))
    assert difference.mean() < 2


def test_bands_keep_the_profile() -> None:
    image = Image.new("RGB", (40, 40))
    image.info["icc_profile"] = b"a profile"
    assert resize_in_bands(image, Dimensions(9, 9)).info == {"icc_profile": b"a profile"}


def test_each_crop_gives_one_image_and_the_largest_scale_comes_first() -> None:
    crops = [SMALL, SQUARE, LARGE, SMALL]
    resized = list(resize_to_each(photo(*ORIGINAL), crops, ORIGINAL))
    assert [crop for crop, _ in resized] == [LARGE, SQUARE, SMALL]
    assert [image.size for _, image in resized] == [(300, 200), (100, 100), (60, 40)]


def test_an_image_of_the_right_size_is_not_resized() -> None:
    image = photo(*LARGE.size)
    assert [resized for _, resized in resize_to_each(image, [LARGE], ORIGINAL)] == [image]
