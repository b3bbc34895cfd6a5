"""ThumbHash: how an image looks, in about 25 bytes (https://github.com/evanw/thumbhash).

This gives the bytes of the reference implementation, in JavaScript, except where a number is only a
rounding error away from the middle between two digits. That is so in flat and in symmetric images,
where the other digit looks the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, floor, pi
from operator import mul
from typing import NamedTuple

from PIL import Image

Channel = list[float]
"""A value for each pixel, row by row."""


class _Waves(NamedTuple):
    """A channel as cosine waves: the mean, the others scaled to 0 … 1, and their scale."""

    mean: float
    others: list[float]
    scale: float


def encode(image: Image.Image) -> bytes:
    """Return the ThumbHash of an image. It should be small, because all its pixels count."""
    width, height = image.size
    longest = max(width, height)
    luminance, yellow_blue, red_green, alpha = _split_channels(image)
    has_alpha = sum(alpha) < width * height
    most_waves = 5 if has_alpha else 7
    across = max(1, _round(most_waves * width / longest))
    down = max(1, _round(most_waves * height / longest))

    light = _find_waves(luminance, image.size, max(3, across), max(3, down))
    yellow = _find_waves(yellow_blue, image.size, 3, 3)
    red = _find_waves(red_green, image.size, 3, 3)
    channels = [light, yellow, red]

    light_mean = _round(63 * light.mean)
    light_scale = _round(31 * light.scale)
    yellow_mean = _round(31.5 + 31.5 * yellow.mean)
    yellow_scale = _round(63 * yellow.scale)
    red_mean = _round(31.5 + 31.5 * red.mean)
    red_scale = _round(63 * red.scale)
    is_landscape = width > height
    waves_of_short_side = down if is_landscape else across
    fields = [
        (light_mean, 6),
        (yellow_mean, 6),
        (red_mean, 6),
        (light_scale, 5),
        (has_alpha, 1),
        (waves_of_short_side, 3),
        (yellow_scale, 6),
        (red_scale, 6),
        (is_landscape, 1),
    ]
    if has_alpha:
        opacity = _find_waves(alpha, image.size, 5, 5)
        fields.append((_round(15 * opacity.mean), 4))
        fields.append((_round(15 * opacity.scale), 4))
        channels.append(opacity)
    for channel in channels:
        digits = [_round(15 * value) for value in channel.others]
        fields.extend((digit, 4) for digit in digits)
    return _pack(fields)


def _pack(fields: Iterable[tuple[int, int]]) -> bytes:
    """Return numbers as bytes, each in its number of bits, the first one in the lowest bits."""
    packed = 0
    position = 0
    for number, bits in fields:
        packed |= number << position
        position += bits
    return packed.to_bytes((position + 7) // 8, "little")


def _split_channels(image: Image.Image) -> tuple[Channel, Channel, Channel, Channel]:
    """Return luminance, yellow minus blue, red minus green, and alpha.

    Transparent pixels have the mean colour.
    """
    *colors, opacity = image.convert("RGBA").split()
    alpha = [level / 255 for level in opacity.tobytes()]
    total = sum(alpha)
    opaque = []
    for band in colors:
        parts = [a / 255 * level for a, level in zip(alpha, band.tobytes(), strict=True)]
        mean = sum(parts) / total if total else 0
        opaque.append([mean * (1 - a) + part for a, part in zip(alpha, parts, strict=True)])
    pixels = list(zip(*opaque, strict=True))
    luminance = [(red + green + blue) / 3 for red, green, blue in pixels]
    yellow_blue = [(red + green) / 2 - blue for red, green, blue in pixels]
    red_green = [red - green for red, green, _ in pixels]
    return luminance, yellow_blue, red_green, alpha


def _find_waves(channel: Channel, size: tuple[int, int], across: int, down: int) -> _Waves:
    """Return the waves of the lowest frequencies: up to *across* horizontally, *down* vertically.

    The rows are summed up first: that takes a third of the time.
    """
    width, height = size
    rows = [channel[start : start + width] for start in range(0, len(channel), width)]
    sums = []
    for wave in _list_waves(width, across):
        row_sums = [_sum_products(row, wave) for row in rows]
        sums.append(row_sums)
    waves_down = _list_waves(height, down)
    frequencies = [
        (x, y) for y in range(down) for x in range(across) if x * down < across * (down - y)
    ]
    values = [_sum_products(sums[x], waves_down[y]) / len(channel) for x, y in frequencies]
    mean, *others = values
    scale = max(map(abs, others))
    if scale:
        others = [0.5 + 0.5 / scale * value for value in others]
    return _Waves(mean, others, scale)


def _list_waves(length: int, count: int) -> list[list[float]]:
    """Return the first cosine waves over *length* pixels: a constant, half a wave, a whole one."""
    step = pi / length
    waves = []
    for frequency in range(count):
        wave = [cos(step * frequency * (place + 0.5)) for place in range(length)]
        waves.append(wave)
    return waves


def _sum_products(values: Channel, weights: Channel) -> float:
    total: float = sum(map(mul, values, weights))
    return total


def _round(value: float) -> int:
    """Return the nearest whole number, halves rounded up as in JavaScript."""
    below = floor(value)
    return below + (value - below >= 0.5)
