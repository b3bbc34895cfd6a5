"""The most frequent colours of an image."""

from __future__ import annotations

from bisect import bisect_left
from heapq import nlargest
from itertools import accumulate, product

from PIL import Image, ImageChops

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

MAX_COLORS = 5

_MIN_SHARE = 0.01
_IS_OPAQUE = [0] * 128 + [255] * 128
_IS_SIMILAR = [255] * 41 + [0] * 215
"""Whether two colours count as one, by the most levels by which a channel differs."""

_MAX_BLOCKS = 16

_CELL = 32
"""How many levels of each channel a cell has."""

_CELL_LEVELS = [level // _CELL for level in range(256)]
_NEIGHBOURS = [256 * red + 16 * green + blue for red, green, blue in product((-1, 0, 1), repeat=3)]


def find_palette(image: Image.Image) -> tuple[str, ...]:
    """Return up to five colours of an RGB or RGBA image as ``"#RRGGBB"``, most frequent first.

    Pixels that are less than half opaque do not count; if there are no others, nor are there
    colours. A colour is the median of similar pixels, which are then left out to find the next one,
    until they are less than 1 % of all.

    >>> find_palette(Image.new("RGB", (4, 4), (58, 95, 140)))
    ('#3A5F8C',)
    """
    remaining = _opaque_pixels(image)
    total = _count(remaining)
    image = image.convert("RGB")
    cells = image.point(_CELL_LEVELS * 3)
    found: list[tuple[int, Color]] = []
    while len(found) < MAX_COLORS:
        center = _find_densest(cells, remaining)
        if center is None:
            break
        similar = _gather(image, center, remaining)
        count = _count(similar)
        if found and count < _MIN_SHARE * total:
            break
        found.append((count, _median(image, similar)))
        remaining = ImageChops.subtract(remaining, similar)
    found.sort(key=lambda counted: counted[0], reverse=True)
    return tuple("#{:02X}{:02X}{:02X}".format(*color) for _, color in found)


def _opaque_pixels(image: Image.Image) -> Image.Image:
    """Return a mask of the pixels that count."""
    if image.mode == "RGB":
        return Image.new("L", image.size, 255)
    return image.getchannel("A").point(_IS_OPAQUE)


def _count(mask: Image.Image) -> int:
    return mask.histogram()[255]


def _find_densest(cells: Image.Image, mask: Image.Image) -> Color | None:
    """Return the centre of a cell with many pixels in *mask*, or None if the mask is empty.

    It is the fullest cell in the fullest block of 3 × 3 × 3 cells, because the pixels of one colour
    may lie on both sides of a boundary. Only blocks around one of the fullest cells are compared.
    """
    masked = cells.copy()
    masked.putalpha(mask)
    counts: dict[int, int] = {}
    for count, levels in masked.getcolors(masked.width * masked.height) or ():
        assert isinstance(levels, tuple)
        red, green, blue, alpha = levels
        if alpha:
            counts[256 * red + 16 * green + blue] = count
    if not counts:
        return None
    around = {}
    for cell in nlargest(_MAX_BLOCKS, counts, key=lambda cell: (counts[cell], cell)):
        around[cell] = sum(counts.get(cell + offset, 0) for offset in _NEIGHBOURS)
    middle = max(around, key=lambda cell: (around[cell], cell))
    block = [middle + offset for offset in _NEIGHBOURS if middle + offset in counts]
    fullest = max(block, key=lambda cell: (counts[cell], cell))
    places = fullest >> 8, fullest >> 4 & 15, fullest & 15
    red, green, blue = (place * _CELL + _CELL // 2 for place in places)
    return red, green, blue


def _gather(image: Image.Image, center: Color, mask: Image.Image) -> Image.Image:
    """Return the pixels in *mask* similar to *center*, or to their median if that has more."""
    similar = _similar_pixels(image, center, mask)
    nearby = _similar_pixels(image, _median(image, similar), mask)
    return max(similar, nearby, key=_count)


def _similar_pixels(image: Image.Image, color: Color, mask: Image.Image) -> Image.Image:
    """Return a mask of the pixels in *mask* that have nearly that colour."""
    difference = ImageChops.difference(image, Image.new("RGB", image.size, color))
    red, green, blue = difference.split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return ImageChops.darker(largest.point(_IS_SIMILAR), mask)


def _median(image: Image.Image, mask: Image.Image) -> Color:
    """Return the median of each channel of the pixels in *mask*, which has some."""
    histogram = image.histogram(mask)
    medians = []
    for start in (0, 256, 512):
        ranks = list(accumulate(histogram[start : start + 256]))
        medians.append(bisect_left(ranks, ranks[-1] / 2))
    red, green, blue = medians
    return red, green, blue
