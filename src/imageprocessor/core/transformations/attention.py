"""Finding the part of an image that people look at, for the gravity "auto"."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from math import exp
from typing import Any

from PIL import Image, ImageMath

from imageprocessor.core.geometry import Box, Dimensions, fit_inside

_SIDE = 64
_DETAIL, _SURROUNDINGS = 3.5, 21.0  # sides in px of the areas that are compared
_LUMA_WEIGHT = 0.2  # a subject differs from its surroundings more in colour than in brightness
_EDGE_WEIGHT, _COLOR_WEIGHT, _SKIN_WEIGHT = 3.0, 0.6, 12.0
_SKIN = (0.735, 0.537, 0.414)  # the direction of the RGB values of skin, as in libvips
_SKIN_RANGE = 0.3
_DARK, _BRIGHT = 70, 415  # lengths of RGB values that say nothing about skin
_CENTER = (0.5, 0.42)  # above the middle, where heads are
_SPREAD = 0.3
_MARGIN = 0.2  # part of the window on each side where a subject counts less


def find_subject(
    image: Image.Image, box: Box, outer: Dimensions, inner: Dimensions
) -> tuple[int, int]:
    """Return left and top of the window of size *inner* that shows most of the subject.

    The part of *image* in *box* shows *outer*, at any size. The window is as wide or as high as
    *outer*. The subject is what stands out from its surroundings by edges, colour or likeness to
    skin, on an image of 64 px; what is near the middle counts more. If nothing stands out, the
    window is in the middle.
    """
    size = fit_inside(outer, _SIDE, _SIDE)
    small = image.resize(size, Image.Resampling.BOX, box)
    across = _weigh_places(size.width, _CENTER[0])
    down = _weigh_places(size.height, _CENTER[1])
    columns = [0.0] * size.width
    rows = [0.0] * size.height
    for index, interest in enumerate(_measure_interest(small)):
        y, x = divmod(index, size.width)
        weighted = interest * interest * across[x] * down[y]
        columns[x] += weighted
        rows[y] += weighted
    left = _find_start(columns, outer.width, inner.width)
    top = _find_start(rows, outer.height, inner.height)
    return left, top


def _weigh_places(count: int, center: float) -> list[float]:
    """Return the weight of each column or row: a bell around *center*."""
    places = [(index + 0.5) / count - center for index in range(count)]
    return [exp(-((place / _SPREAD) ** 2) / 2) for place in places]


def _measure_interest(small: Image.Image) -> array[float]:
    """Return how much each pixel stands out from its surroundings."""
    edges = contrast = Image.new("F", small.size)
    for band, weight in _split(small):
        for dx, dy in ((1, 0), (0, 1)):
            edges = _add_squares(edges, _find_steps(band, dx, dy), weight)
        difference = _subtract(_average(band, _DETAIL), _average(band, _SURROUNDINGS))
        contrast = _add_squares(contrast, difference, weight)
    contrast = _calculate(lambda square: square**0.5, contrast)
    edge_weight = _EDGE_WEIGHT / max(_find_mean(edges), 1)
    color_weight = _COLOR_WEIGHT / max(_find_mean(contrast), 1)
    interest = _calculate(
        lambda edge, color, skin: edge_weight * edge + color_weight * color + _SKIN_WEIGHT * skin,
        _find_peaks(edges),
        contrast,
        _find_peaks(_find_skin(small)),
    )
    return array("f", interest.tobytes())


def _split(small: Image.Image) -> list[tuple[Image.Image, float]]:
    """Return opacity, brightness and two differences of colour, each with its weight."""
    bands = []
    if small.mode == "RGBA":
        *colors, alpha = small.convert("RGBa").split()  # what is transparent has no colour
        small = Image.merge("RGB", colors)
        bands.append((alpha.convert("F"), _LUMA_WEIGHT))
    luma, blue, red = (band.convert("F") for band in small.convert("YCbCr").split())
    return [*bands, (luma, _LUMA_WEIGHT), (blue, 1.0), (red, 1.0)]


def _find_steps(band: Image.Image, dx: int, dy: int) -> Image.Image:
    """Return the difference of each pixel and the next one; the last ones have none."""
    width, height = band.size
    pixels = band.crop((0, 0, width - dx, height - dy))
    following = band.crop((dx, dy, width, height))
    return _subtract(pixels, following).crop((0, 0, width, height))


def _find_skin(small: Image.Image) -> Image.Image:
    """Return how much each pixel looks like skin, from 0 to 1."""
    red, green, blue = (band.convert("F") for band in small.convert("RGB").split())
    length = _calculate(lambda r, g, b: (r * r + g * g + b * b) ** 0.5 + 1, red, green, blue)
    away = Image.new("F", small.size)
    for band, direction in zip((red, green, blue), _SKIN, strict=True):
        skin = _calculate(lambda whole, part=direction: whole * part, length)
        away = _add_squares(away, _subtract(band, skin), 1)
    likeness = _calculate(lambda square, whole: 1 - square**0.5 / whole / _SKIN_RANGE, away, length)
    return _calculate(
        lambda alike, whole: (alike > 0) * alike * (whole > _DARK) * (whole < _BRIGHT),
        likeness,
        length,
    )


def _find_peaks(plane: Image.Image) -> Image.Image:
    """Return by how much details exceed their surroundings; an even texture leaves nothing."""
    excess = _subtract(_average(plane, _DETAIL), _average(plane, _SURROUNDINGS))
    return _calculate(lambda value: (value > 0) * value, excess)


def _average(plane: Image.Image, side: float) -> Image.Image:
    """Return the smooth average of about *side* px around each pixel."""
    columns = max(round(plane.width / side), 2)
    rows = max(round(plane.height / side), 2)
    coarse = plane.resize((columns, rows), Image.Resampling.BOX)
    return coarse.resize(plane.size, Image.Resampling.BICUBIC)


def _find_mean(plane: Image.Image) -> float:
    mean = plane.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(mean, float)
    return mean


def _subtract(plane: Image.Image, other: Image.Image) -> Image.Image:
    return _calculate(lambda value, other: value - other, plane, other)


def _add_squares(total: Image.Image, plane: Image.Image, weight: float) -> Image.Image:
    return _calculate(lambda total, value: total + weight * value * value, total, plane)


def _calculate(expression: Callable[..., Any], *planes: Image.Image) -> Image.Image:
    """Return *expression* of the values of each pixel in the planes."""
    names = [f"plane{index}" for index in range(len(planes))]
    result: Image.Image = ImageMath.lambda_eval(
        lambda operands: expression(*(operands[name] for name in names)),
        **dict(zip(names, planes, strict=True)),
    )
    return result


def _find_start(interest: list[float], outer: int, inner: int) -> int:
    """Return where the window of length *inner* within *outer* starts."""
    count = len(interest)
    middle = (outer - inner) // 2
    best, most = middle, 0.0
    if inner >= outer:
        return middle
    starts = [(outer - inner) * index / count for index in range(count + 1)]
    for start in sorted(starts, key=lambda start: abs(start - middle)):
        seen = 0.0
        for index, value in enumerate(interest):
            place = ((index + 0.5) / count * outer - start) / inner
            margin = min(place, 1 - place)
            if margin > 0:
                seen += value * min(margin / _MARGIN, 1)
        if seen > most:
            best, most = round(start), seen
    return best
