from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imageprocessor.core.appearance.palette import find_palette
from tests.images import photo


def stripes(*parts: tuple[int, tuple[int, int, int]]) -> Image.Image:
    """Return an image with a stripe of each colour, as wide as the number before it."""
    image = Image.new("RGB", (sum(width for width, _ in parts), 10))
    left = 0
    for width, color in parts:
        image.paste(color, (left, 0, left + width, 10))
        left += width
    return image


@pytest.mark.parametrize(
    "rgb", [(0, 0, 0), (255, 255, 255), (58, 95, 140), (1, 254, 127), (255, 0, 1)]
)
@pytest.mark.parametrize("size", [(1, 1), (100, 100), (7, 90)])
def test_a_solid_image_has_exactly_its_colour(
    rgb: tuple[int, int, int], size: tuple[int, int]
) -> None:
    expected = ("#{:02X}{:02X}{:02X}".format(*rgb),)
    assert find_palette(Image.new("RGB", size, rgb)) == expected
    assert find_palette(Image.new("RGBA", size, (*rgb, 255))) == expected


def test_colours_are_exact_and_the_most_frequent_comes_first() -> None:
    image = stripes((20, (0, 0, 255)), (60, (255, 0, 0)), (5, (9, 8, 7)), (15, (200, 220, 90)))
    assert find_palette(image) == ("#FF0000", "#0000FF", "#C8DC5A", "#090807")


def test_no_more_than_five_colours_are_returned() -> None:
    corners = [((corner & 4) * 63, (corner & 2) * 126, (corner & 1) * 252) for corner in range(8)]
    image = stripes(*((8 - place, corner) for place, corner in enumerate(corners)))
    assert find_palette(image) == ("#000000", "#0000FC", "#00FC00", "#00FCFC", "#FC0000")


def test_colours_of_less_than_one_percent_are_left_out() -> None:
    image = stripes((990, (0, 0, 255)), (10, (255, 0, 0)))
    assert find_palette(image) == ("#0000FF", "#FF0000")
    image = stripes((991, (0, 0, 255)), (9, (255, 0, 0)))
    assert find_palette(image) == ("#0000FF",)


def test_shades_of_a_colour_are_one_colour() -> None:
    """The shades of red lie in several cells, and none of them is as frequent as blue."""
    reds = [(4, (220 + shade, 20 + shade, 30)) for shade in range(0, 25, 5)]
    assert find_palette(stripes(*reds, (6, (0, 0, 255)))) == ("#E61E1E", "#0000FF")


def test_the_few_pixels_between_two_colours_are_not_the_most_frequent() -> None:
    edges = (2, (45, 45, 45))
    assert find_palette(stripes((60, (90, 90, 90)), edges, (38, (0, 0, 0)))) == (
        "#5A5A5A",
        "#000000",
    )


def test_each_colour_of_a_photo_is_that_of_some_pixels() -> None:
    image = photo(100, 75)
    palette = find_palette(image)
    assert 1 < len(palette) <= 5
    for color in palette:
        difference = np.asarray(image).astype(int) - list(bytes.fromhex(color[1:]))
        is_similar = np.abs(difference).max(axis=-1) <= 40
        assert is_similar.mean() > 0.01


def test_transparent_pixels_do_not_count() -> None:
    image = Image.new("RGBA", (100, 100), (0, 255, 0, 127))
    assert find_palette(image) == ()
    image.paste((200, 10, 20, 128), (0, 0, 30, 30))
    assert find_palette(image) == ("#C80A14",)


def test_the_image_stays_as_it_is() -> None:
    image = photo(90, 60).convert("RGBA")
    before = image.copy()
    find_palette(image)
    assert image == before
