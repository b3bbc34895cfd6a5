"""Decoding PNGs of 16 bits per sample, and reducing them to 8 bits without losing dark levels.

A level of 8 bits in linear light, or near it, is many visible levels wide in the dark. So the curve
of the colour profile is replaced by sRGB's before the low bytes are dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, ImageChops, ImageFile

from imageprocessor.core.color.conversion import is_usable
from imageprocessor.core.color.icc import (
    GRAY_CURVE,
    RGB_COLORANTS,
    RGB_CURVES,
    read_curve,
    read_tags,
    write_profile,
)
from imageprocessor.core.color.spaces import SRGB_CURVE, DeclaredColors, list_profiles

_MODES = {"I;16B": "L", "LA;16B": "LA", "RGB;16B": "RGB", "RGBA;16B": "RGBA"}
"""The mode of the image at 8 bits, by Pillow's raw mode of a PNG of 16 bits per sample."""
_LOW_BYTES = {"RGB": "RGB;16L", "RGBA": "RGBA;16L"}
"""Raw modes that read the low byte of each sample, where Pillow's default reads the high one."""
_BAND_PIXELS = 1 << 20
_LEVELS = 1 << 16

Table = tuple[int, ...]
"""An 8-bit level for each level of 16 bits."""


def has_16_bits(decoder: ImageFile.ImageFile) -> bool:
    """Return whether an opened file is a PNG of 16 bits per sample."""
    return bool(decoder.tile) and decoder.tile[0].args in _MODES


def decode_16_bits(
    decoder: ImageFile.ImageFile, file: BinaryIO, declared: DeclaredColors
) -> tuple[Image.Image, tuple[bytes, ...]]:
    """Return the image at 8 bits, in L, LA, RGB or RGBA, and the ICC profiles it has now.

    *decoder* has opened *file* and not loaded it. Low bytes are read only if a curve other than
    sRGB's or a transparent colour needs them, because this takes a second decode for RGB.
    """
    mode = _MODES[str(decoder.tile[0].args)]
    key = decoder.info.pop("transparency", None)
    tables, profiles = _replace_curves(list_profiles(declared, mode), mode)
    if mode == "LA":
        # As RGBA, an LA pixel has the high and the low byte of its gray, then of its alpha.
        decoder.tile = [tile._replace(args="RGBA") for tile in decoder.tile]
    decoder.load()
    low = None
    if mode in _LOW_BYTES:
        if not tables and key is None:
            return decoder, profiles
        low = _decode_low_bytes(decoder, file, _LOW_BYTES[mode])
    tables = tables or [_high_bytes()] * len(mode.removesuffix("A"))
    keys = [key] if isinstance(key, int) else key
    result = Image.new(mode if keys is None else f"{mode}A", decoder.size)
    band_rows = max(1, _BAND_PIXELS // decoder.width)
    for top in range(0, decoder.height, band_rows):
        box = (0, top, decoder.width, min(top + band_rows, decoder.height))
        samples, alpha = _join_bytes(
            decoder.crop(box), None if low is None else low.crop(box), mode
        )
        if keys is not None:
            alpha = _mask_other_colors(samples, keys)
        channels = [deep.point(table, "L") for deep, table in zip(samples, tables, strict=True)]
        if alpha is not None:
            channels.append(alpha)
        result.paste(Image.merge(result.mode, channels), box)
    return result, profiles


def _replace_curves(
    profiles: tuple[bytes, ...], mode: str
) -> tuple[list[Table], tuple[bytes, ...]]:
    """Return tables from the curves of the first usable profile to sRGB's, and the profiles after.

    There are no tables if there is no such profile, if its curves are sRGB's, or if it has tables
    of colours, which replace the curves.
    """
    is_gray = mode in {"L", "LA"}
    names = (GRAY_CURVE,) if is_gray else RGB_CURVES
    for index, profile in enumerate(profiles):
        if not is_usable(profile, mode):
            continue
        tags = read_tags(profile)
        try:
            tables = [_table_to_srgb(tags[name]) for name in names]
            kept = {} if is_gray else {name: tags[name] for name in RGB_COLORANTS}
        except (KeyError, ValueError, ArithmeticError, struct.error):
            break
        if b"A2B0" in tags or all(map(_is_srgb, tables)):
            break
        replaced = write_profile(kept | dict.fromkeys(names, SRGB_CURVE))
        return tables, (*profiles[:index], replaced)
    return [], profiles


def _decode_low_bytes(
    decoder: ImageFile.ImageFile, file: BinaryIO, raw_mode: str
) -> ImageFile.ImageFile:
    file.seek(0)
    second = type(decoder)(file)
    second.tile = [tile._replace(args=raw_mode) for tile in second.tile]
    second.load()
    return second


def _join_bytes(
    high: Image.Image, low: Image.Image | None, mode: str
) -> tuple[list[Image.Image], Image.Image | None]:
    """Return the colour channels at 16 bits, in mode I, and the alpha channel at 8 bits."""
    if mode == "L":
        return [high.convert("I")], None
    if mode == "LA":
        high_gray, low_gray, alpha, _ = high.split()
        return [_join_channel(high_gray, low_gray)], alpha
    assert low is not None
    high_channels = high.split()
    low_channels = low.split()
    samples = [_join_channel(high_channels[band], low_channels[band]) for band in range(3)]
    return samples, high_channels[3] if mode == "RGBA" else None


def _join_channel(high: Image.Image, low: Image.Image) -> Image.Image:
    interleaved = bytearray(2 * high.width * high.height)
    interleaved[0::2] = high.tobytes()
    interleaved[1::2] = low.tobytes()
    return Image.frombytes("I;16", high.size, bytes(interleaved), "raw", "I;16B").convert("I")


def _mask_other_colors(samples: Sequence[Image.Image], keys: Sequence[int]) -> Image.Image:
    """Return an alpha channel in which only pixels of exactly the colour *keys* are transparent."""
    mask = None
    for deep, key in zip(samples, keys, strict=True):
        is_other = [255] * _LEVELS
        is_other[key] = 0
        differs = deep.point(is_other, "L")
        mask = differs if mask is None else ImageChops.lighter(mask, differs)
    assert mask is not None
    return mask


@lru_cache(maxsize=8)
def _table_to_srgb(curve: bytes) -> Table:
    """Return a table from levels of *curve*, a tag of a profile, to levels of sRGB."""
    to_light = read_curve(curve)
    table = []
    for level in range(_LEVELS):
        light = to_light(level / (_LEVELS - 1))
        table.append(round(255 * _encode_srgb(light)))
    return tuple(table)


def _encode_srgb(light: float) -> float:
    if light <= 0.0031308:
        return max(0.0, 12.92 * light)
    return float(min(1.0, 1.055 * light ** (1 / 2.4) - 0.055))


def _is_srgb(table: Table) -> bool:
    return all(abs(table[level] - (level >> 8)) <= 1 for level in range(0, _LEVELS, 64))


@lru_cache(maxsize=1)
def _high_bytes() -> Table:
    return tuple(level >> 8 for level in range(_LEVELS))
