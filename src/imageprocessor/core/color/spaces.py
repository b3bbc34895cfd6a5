"""The colour spaces that a file declares: PNG chunks, an ICC profile, EXIF."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from imageprocessor.core.color.icc import (
    GRAY_CURVE,
    RGB_CURVES,
    Chromaticities,
    Curve,
    colorant_tags,
    gamma_curve,
    linear_toe_curve,
    read_curve,
    sampled_curve,
    write_profile,
)
from imageprocessor.core.exif import ASCII, LONG, SHORT, read_tags

_D65 = (0.3127, 0.3290)
_ILLUMINANT_C = (0.310, 0.316)
_BT_709 = Chromaticities(_D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_BT_601_525 = Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
_P3 = Chromaticities(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_PRIMARIES = {
    1: _BT_709,
    4: Chromaticities(_ILLUMINANT_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Chromaticities(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: _BT_601_525,
    7: _BT_601_525,
    8: Chromaticities(_ILLUMINANT_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: Chromaticities(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    11: _P3._replace(white=(0.314, 0.351)),
    12: _P3,
    22: Chromaticities(_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""Primaries by their number in ITU-T H.273, which a cICP chunk contains."""

SRGB_CURVE = linear_toe_curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT_709_CURVE = linear_toe_curve(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_TRANSFER_CURVES = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), _BT_709_CURVE),
    4: gamma_curve(2.2),
    5: gamma_curve(2.8),
    7: linear_toe_curve(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913),
    8: gamma_curve(1.0),
    13: SRGB_CURVE,
}
"""Curves of standard dynamic range by the number of their transfer function in ITU-T H.273."""
_PQ, _HLG = 16, 18

_WHITE_NITS = 203
"""The luminance of white paper in high dynamic range (ITU-R BT.2408)."""
_PQ_MOST_NITS = 10_000
_HLG_MOST_NITS = 1_000  # of the display for which the system gamma below is 1.2 (ITU-R BT.2100)
_HLG_SYSTEM_GAMMA = 1.2

_CHUNK_UNIT = 100_000
_SRGB_GAMMAS = range(45_000, 46_001)
"""The values of gAMA around 45 455, with which a file in sRGB approximates its curve (11.3.2.5)."""
_SAME_PRIMARIES = 0.001
_GAMMA_RANGE = range(10_000, 1_000_001)
"""The values of gAMA that are used: exponents from 0.1 to 10."""

_ORIENTATION = 0x0112
_EXIF_DIRECTORY, _INTEROPERABILITY_DIRECTORY = 0x8769, 0xA005
_COLOR_SPACE, _INTEROPERABILITY_INDEX = 0xA001, 0x0001
_IS_SRGB = (1,)
_UNCALIBRATED = 0xFFFF


class ColorSpace(NamedTuple):
    """An RGB colour space: its primaries, and the curve of each channel as a tag of a profile."""

    primaries: Chromaticities
    curve: bytes
    is_hdr: bool = False

    def profile(self, mode: str) -> bytes:
        """Return an ICC profile for pixels of *mode*: L, LA, RGB or RGBA."""
        if mode in {"L", "LA"}:
            return write_profile({GRAY_CURVE: self.curve})
        return write_profile(colorant_tags(self.primaries) | dict.fromkeys(RGB_CURVES, self.curve))


SRGB = ColorSpace(_BT_709, SRGB_CURVE)
ADOBE_RGB = ColorSpace(
    Chromaticities(_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma_curve(563 / 256)
)

DeclaredColors = tuple[bytes | ColorSpace, ...]
"""Colour spaces and ICC profiles; the first usable one counts, and without any, sRGB does."""


def list_declared_colors(
    chunks: Mapping[bytes, bytes], profile: bytes | None, exif: bytes
) -> DeclaredColors:
    """Return what a file declares about its colours, in the order of precedence.

    *chunks* are those of a PNG. The order is cICP, the ICC profile, sRGB, gAMA with cHRM (PNG,
    third edition, 4.3), and last EXIF. A chunk that is damaged or cannot be applied is ignored.
    """
    declared: list[bytes | ColorSpace] = []
    coded = _read_coded_space(chunks.get(b"cICP", b""))
    if coded is not None:
        return () if coded == SRGB else (coded,)
    if profile is not None:
        declared.append(profile)
    if len(chunks.get(b"sRGB", b"")) == 1:
        return tuple(declared)
    measured = _read_measured_space(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b""))
    if measured is not None:
        if measured != SRGB:
            declared.append(measured)
    elif is_adobe_rgb(exif):
        declared.append(ADOBE_RGB)
    return tuple(declared)


def declares_hdr(declared: DeclaredColors) -> bool:
    """Return whether the image has a high dynamic range, which its conversion cuts off."""
    return any(isinstance(color, ColorSpace) and color.is_hdr for color in declared)


def list_profiles(declared: DeclaredColors, mode: str) -> tuple[bytes, ...]:
    """Return the ICC profiles of the declared colours, for pixels of *mode*."""
    profiles = []
    for color in declared:
        if isinstance(color, bytes):
            profiles.append(color)
        elif mode != "CMYK":
            profiles.append(color.profile(mode))
    return tuple(profiles)


def is_adobe_rgb(exif: bytes) -> bool:
    """Return whether a camera marked a photo as Adobe RGB, by the interoperability index R03."""
    pointer = read_tags(exif, {_EXIF_DIRECTORY}).get(_EXIF_DIRECTORY)
    if pointer is None:
        return False
    wanted = {_COLOR_SPACE, _INTEROPERABILITY_DIRECTORY}
    tags = read_tags(exif, wanted, offset=pointer[0])
    pointer = tags.get(_INTEROPERABILITY_DIRECTORY)
    # A program that converts a photo to sRGB often changes only the first of the two tags.
    if pointer is None or tags.get(_COLOR_SPACE) == _IS_SRGB:
        return False
    tags = read_tags(exif, {_INTEROPERABILITY_INDEX}, offset=pointer[0])
    index = tags.get(_INTEROPERABILITY_INDEX)
    return isinstance(index, bytes) and index.rstrip(b"\0") == b"R03"


def adobe_rgb_exif(orientation: int) -> bytes:
    """Return an EXIF block of 86 bytes with an orientation and the mark of Adobe RGB."""
    exif_start, interoperability_start = 38, 68
    two_tags = ">HHHIHxxHHII4x"  # their number, a short tag, a long one, no further directory
    header = struct.pack(">4sI", b"MM\0*", 8)
    first = (_ORIENTATION, SHORT, 1, orientation)
    pointer = (_EXIF_DIRECTORY, LONG, 1, exif_start)
    main = struct.pack(two_tags, 2, *first, *pointer)
    first = (_COLOR_SPACE, SHORT, 1, _UNCALIBRATED)
    pointer = (_INTEROPERABILITY_DIRECTORY, LONG, 1, interoperability_start)
    exif = struct.pack(two_tags, 2, *first, *pointer)
    interoperability = struct.pack(">HHHI4s4x", 1, _INTEROPERABILITY_INDEX, ASCII, 4, b"R03\0")
    return header + main + exif + interoperability


def _read_coded_space(cicp: bytes) -> ColorSpace | None:
    """Return the colour space that a cICP chunk names by numbers of ITU-T H.273."""
    if len(cicp) != 4:
        return None
    primaries, transfer, matrix, is_full_range = cicp
    if primaries not in _PRIMARIES or matrix != 0 or is_full_range > 1:
        return None
    curve = _transfer_curve(transfer)
    if curve is None:
        return None
    if not is_full_range:
        curve = _narrow_range_curve(curve)
    return ColorSpace(_PRIMARIES[primaries], curve, is_hdr=transfer in (_PQ, _HLG))


def _transfer_curve(transfer: int) -> bytes | None:
    if transfer == _PQ:
        return _flattened_curve(_pq_nits)
    if transfer == _HLG:
        return _flattened_curve(_hlg_nits)
    return _TRANSFER_CURVES.get(transfer)


@cache
def _flattened_curve(nits: Curve) -> bytes:
    """Return a curve of high dynamic range on which white paper is white, and all above it, too."""
    return sampled_curve(lambda level: nits(level) / _WHITE_NITS)


@cache
def _narrow_range_curve(curve: bytes) -> bytes:
    """Return the curve of levels of which 16 is black and 235 is white."""
    full_range = read_curve(curve)

    def narrow_range(level: float) -> float:
        full_level = (255 * level - 16) / 219
        return full_range(min(max(full_level, 0.0), 1.0))

    return sampled_curve(narrow_range)


def _pq_nits(level: float) -> float:
    """Return the luminance of a PQ level (SMPTE ST 2084)."""
    root = level ** (32 / 2523)
    ratio = max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return float(_PQ_MOST_NITS * ratio ** (8192 / 1305))


def _hlg_nits(level: float) -> float:
    """Return the luminance of an HLG level on a display of 1000 nits (ITU-R BT.2100).

    The standard applies the system gamma to the luminance of the pixel, and this to each channel,
    which is the same for gray.
    """
    if level <= 0.5:
        scene = level**2 / 3
    else:
        scene = (math.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return float(_HLG_MOST_NITS * scene**_HLG_SYSTEM_GAMMA)


def _read_measured_space(gama: bytes, chrm: bytes) -> ColorSpace | None:
    """Return the colour space of gAMA and cHRM; what one of them does not say is as in sRGB.

    Files in sRGB also declare its primaries and a gamma of 1/2.2, for decoders that do not know
    sRGB. Without an sRGB chunk they still are sRGB: so were 375 of 1600 PNGs from packages.
    """
    gamma = int.from_bytes(gama) if len(gama) == 4 else 0
    if gamma not in _GAMMA_RANGE:
        gamma = 0
    primaries = _read_primaries(chrm)
    if gamma == 0 and primaries is None:
        return None
    if primaries is None or _is_bt_709(primaries):
        primaries = _BT_709
        if gamma in _SRGB_GAMMAS:
            gamma = 0
    return ColorSpace(primaries, gamma_curve(_CHUNK_UNIT / gamma) if gamma else SRGB_CURVE)


def _is_bt_709(primaries: Chromaticities) -> bool:
    """Return whether these are the primaries of sRGB, up to the rounding errors of some files."""
    pairs = zip(primaries, _BT_709, strict=True)
    return all(math.dist(point, expected) < _SAME_PRIMARIES for point, expected in pairs)


def _read_primaries(chrm: bytes) -> Chromaticities | None:
    if len(chrm) != 32:
        return None
    values = [value / _CHUNK_UNIT for value in struct.unpack(">8I", chrm)]
    white, red, green, blue = zip(values[::2], values[1::2], strict=True)
    primaries = Chromaticities(white, red, green, blue)
    try:
        colorant_tags(primaries)
    except (ZeroDivisionError, struct.error):
        return None
    return primaries
