"""Reading and writing ICC profiles made of curves and, for RGB, a matrix (ICC.1:2022)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

Tags = dict[bytes, bytes]
"""The tags of a profile by name; each value starts with the four letters of its type."""
Curve = Callable[[float], float]
"""A tone curve from a stored level to linear light, both from 0 to 1."""

GRAY_CURVE = b"kTRC"
RGB_CURVES = (b"rTRC", b"gTRC", b"bTRC")
RGB_COLORANTS = (b"rXYZ", b"gXYZ", b"bXYZ")

_HEADER_BYTES = 128
_ENTRY = struct.Struct(">4sII")
_MAX_TAGS = 256
_SAMPLES = 4096
_PARAMETERS = (1, 3, 4, 5, 7)
"""How many parameters each type of parametric curve has."""

_Vector = tuple[float, float, float]
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_INVERSE_BRADFORD = (
    (0.9869929, -0.1470543, 0.1599627),
    (0.4323053, 0.5183603, 0.0492912),
    (-0.0085287, 0.0400428, 0.9684867),
)


class Chromaticities(NamedTuple):
    """The white point and the primaries of an RGB colour space, as x and y of CIE 1931."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


def read_tags(profile: bytes) -> Tags:
    """Return the tags of a profile without those that are damaged."""
    tags: Tags = {}
    if len(profile) < _HEADER_BYTES + 4:
        return tags
    count = int.from_bytes(profile[_HEADER_BYTES : _HEADER_BYTES + 4])
    first = _HEADER_BYTES + 4
    for position in range(first, first + min(count, _MAX_TAGS) * _ENTRY.size, _ENTRY.size):
        if position + _ENTRY.size > len(profile):
            break
        name, start, size = _ENTRY.unpack_from(profile, position)
        if start + size <= len(profile):
            tags[name] = profile[start : start + size]
    return tags


def write_profile(tags: Tags) -> bytes:
    """Return a profile with these tags, for gray if they include a gray curve, otherwise for RGB.

    >>> list(read_tags(write_profile({GRAY_CURVE: gamma_curve(2.0)})))
    [b'kTRC']
    """
    space = b"GRAY" if GRAY_CURVE in tags else b"RGB "
    start = _HEADER_BYTES + 4 + _ENTRY.size * len(tags)
    entries = [struct.pack(">I", len(tags))]
    contents: list[bytes] = []
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        entries.append(_ENTRY.pack(name, start, len(content)))
        contents.append(padded)
        start += len(padded)
    version_4_2 = 0x04200000
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x", start, version_4_2, b"mntr", space, b"XYZ ", b"acsp"
    )
    header += _fixed(*_D50)
    return header.ljust(_HEADER_BYTES, b"\0") + b"".join(entries + contents)


def gamma_curve(gamma: float) -> bytes:
    """Return the tag of the curve ``level ** gamma``."""
    return b"para" + struct.pack(">4xHH", 0, 0) + _fixed(gamma)


def linear_toe_curve(gamma: float, a: float, b: float, c: float, d: float) -> bytes:
    """Return the tag of ``(a * level + b) ** gamma``, or ``c * level`` for levels below *d*."""
    return b"para" + struct.pack(">4xHH", 3, 0) + _fixed(gamma, a, b, c, d)


def sampled_curve(curve: Curve) -> bytes:
    """Return the tag of any curve, as a table."""
    samples = []
    for index in range(_SAMPLES):
        light = curve(index / (_SAMPLES - 1))
        samples.append(round(65535 * _clip(light)))
    return b"curv" + struct.pack(f">4xI{_SAMPLES}H", _SAMPLES, *samples)


def read_curve(tag: bytes) -> Curve:
    """Return the curve in a tag.

    Raises:
        ValueError, struct.error, ZeroDivisionError: The tag is damaged or is no curve.
    """
    if tag[:4] == b"curv":
        return _read_table(tag)
    if tag[:4] == b"para":
        return _read_parametric(tag)
    raise ValueError("the tag of the colour profile is no curve")


def colorant_tags(chromaticities: Chromaticities) -> Tags:
    """Return the tags of a matrix from linear RGB to XYZ, with the white adapted to D50.

    Raises:
        ZeroDivisionError, struct.error: The chromaticities cannot be those of an RGB space.
    """
    white, *primaries = (_to_xyz(*point) for point in chromaticities)
    red, green, blue = primaries
    volume = _dot(red, _cross(green, blue))
    amounts = (
        _dot(white, _cross(green, blue)) / volume,
        _dot(white, _cross(blue, red)) / volume,
        _dot(white, _cross(red, green)) / volume,
    )
    from_white = _multiply(_BRADFORD, white)
    to_white = _multiply(_BRADFORD, _D50)
    tags: Tags = {}
    for name, amount, primary in zip(RGB_COLORANTS, amounts, primaries, strict=True):
        cones = _multiply(_BRADFORD, primary)
        adapted = [
            amount * cone * new / old
            for cone, new, old in zip(cones, to_white, from_white, strict=True)
        ]
        xyz = _multiply(_INVERSE_BRADFORD, (adapted[0], adapted[1], adapted[2]))
        tags[name] = b"XYZ " + bytes(4) + _fixed(*xyz)
    return tags


def _read_table(tag: bytes) -> Curve:
    [count] = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return lambda level: level
    if count > len(tag):  # before a huge format is built for a damaged tag
        raise ValueError("the curve of the colour profile is truncated")
    samples = struct.unpack_from(f">{count}H", tag, 12)
    if count == 1:
        gamma = samples[0] / 256
        return lambda level: level**gamma

    def interpolate(level: float) -> float:
        position = level * (count - 1)
        index = min(int(position), count - 2)
        low, high = samples[index], samples[index + 1]
        return float(low + (high - low) * (position - index)) / 65535

    return interpolate


def _read_parametric(tag: bytes) -> Curve:
    [kind] = struct.unpack_from(">H", tag, 8)
    if kind >= len(_PARAMETERS):
        raise ValueError("the curve of the colour profile has an unknown type")
    stored = struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)
    # In the order of the standard: gamma, a, b, c, d, e, f
    values = [number / 65536 for number in stored]
    gamma = values[0]
    a, b = values[1:3] if kind > 0 else (1.0, 0.0)
    slope, toe_end = values[3:5] if kind > 2 else (0.0, -b / a)
    offset, toe_offset = values[5:7] if kind > 3 else (0.0, 0.0)
    if kind == 2:
        offset = toe_offset = values[3]

    def evaluate(level: float) -> float:
        if level < toe_end:
            return slope * level + toe_offset
        return float(max(0.0, a * level + b) ** gamma) + offset

    return evaluate


def _fixed(*values: float) -> bytes:
    """Return numbers as the standard's signed 16.16 fixed-point numbers."""
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))


def _clip(light: float) -> float:
    return min(max(light, 0.0), 1.0)


def _to_xyz(x: float, y: float) -> _Vector:
    return x / y, 1.0, (1 - x - y) / y


def _dot(a: _Vector, b: _Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: _Vector, b: _Vector) -> _Vector:
    x = a[1] * b[2] - a[2] * b[1]
    y = a[2] * b[0] - a[0] * b[2]
    z = a[0] * b[1] - a[1] * b[0]
    return x, y, z


def _multiply(matrix: tuple[_Vector, _Vector, _Vector], vector: _Vector) -> _Vector:
    return _dot(matrix[0], vector), _dot(matrix[1], vector), _dot(matrix[2], vector)
