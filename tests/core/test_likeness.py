from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage.metrics import structural_similarity

from imageprocessor.core.likeness import compare
from tests.images import encode, photo

IMAGE = photo(301, 533).resize((150, 266))


@pytest.mark.parametrize("quality", [5, 40, 90])
def test_likeness_is_close_to_that_of_scikit_image(quality: int) -> None:
    data = encode(IMAGE, "WEBP", quality=quality)
    with Image.open(BytesIO(data)) as coded:
        planes = [np.asarray(each.convert("L")) for each in (IMAGE, coded)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    exact = structural_similarity(*planes, **options)  # type: ignore[no-untyped-call]
    assert compare(IMAGE, data) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (9, 257), (16, 600)])
def test_an_image_is_like_itself_and_unlike_its_negative(size: tuple[int, int]) -> None:
    image = photo(*size)
    assert compare(image, encode(image, "PNG")) == pytest.approx(1, abs=1e-5)
    assert compare(image, encode(ImageOps.invert(image), "PNG")) < 0.9


def test_what_is_transparent_is_not_compared() -> None:
    image, other = photo(40, 30).convert("RGBA"), photo(40, 30, seed=1).convert("RGBA")
    for each in (image, other):
        each.putalpha(0)
    assert compare(image, encode(other, "PNG")) == pytest.approx(1, abs=1e-5)


def test_a_difference_counts_the_same_in_each_row() -> None:
    image = photo(16, 600)
    likeness = []
    for top in (0, 296, 592):
        other = image.copy()
        other.paste("black", (0, top, 16, top + 8))
        likeness.append(1 - compare(image, encode(other, "PNG")))
    assert min(likeness) > 0
    assert max(likeness) < 1.3 * min(likeness)
