"""HEIC (ISO/IEC 23008-12, annex B): images of the coding HEVC in an HEIF container."""

from __future__ import annotations

from collections.abc import Iterator

from imageprocessor.core.formats.bits import Bits
from imageprocessor.core.formats.boxes import Fields
from imageprocessor.core.formats.container import MAX_PIECES, too_many_pieces
from imageprocessor.core.formats.heif import HeifContainer
from imageprocessor.core.formats.items import ItemData
from imageprocessor.errors import InvalidImageError

_SEQUENCE_PARAMETERS = 33
_MAX_PARAMETER_BYTES = 1024
_LARGEST_BLOCK = 64
"""Images are coded in blocks of at most this many pixels a side; the window cuts off the rest."""
_CHROMA_STEPS = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}
"""Columns and rows of pixels for one of chroma, by the number of the chroma format."""


def read_sizes(config: bytes, data: ItemData) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each set of sequence parameters of an image (H.265, 7.3.2)."""
    fields = Fields(config)
    fields.read(21)
    length_bytes = (fields.number(1) & 3) + 1
    for _ in range(fields.number(1)):
        fields.number(1)
        for _ in range(fields.number(2)):
            unit = fields.read(fields.number(2))
            if _is_sequence_parameters(unit):
                yield _read_size(unit)
    position = 0
    for _ in range(MAX_PIECES):
        if position >= data.size_bytes:
            return
        start = position + length_bytes
        size = int.from_bytes(data.read(position, length_bytes))
        unit = data.read(start, min(size, _MAX_PARAMETER_BYTES))
        if _is_sequence_parameters(unit):
            yield _read_size(unit)
        position = start + size
    raise too_many_pieces()


def _is_sequence_parameters(unit: bytes) -> bool:
    return len(unit) > 2 and unit[0] >> 1 & 0x3F == _SEQUENCE_PARAMETERS


def _read_size(unit: bytes) -> tuple[int, int]:
    """Return the width and height of a decoded image, without what the window cuts off."""
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.number(4)
    layers = bits.number(3)
    bits.number(1)
    _skip_profiles(bits, layers)
    bits.exponential()
    chroma = bits.exponential()
    if chroma == 3:
        bits.number(1)
    sides = [bits.exponential(), bits.exponential()]
    if bits.number(1):
        across, down = _CHROMA_STEPS.get(chroma, (1, 1))
        for side, step in ((0, across), (0, across), (1, down), (1, down)):
            cut = step * bits.exponential()
            if cut >= min(_LARGEST_BLOCK, sides[side]):
                raise InvalidImageError("The HEIC cuts off most of its image. Re-encode it.")
            sides[side] -= cut
    return sides[0], sides[1]


def _skip_profiles(bits: Bits, layers: int) -> None:
    """Skip profile, tier and level of the image and of its further layers."""
    bits.number(96)
    has_profile_and_level = [(bits.number(1), bits.number(1)) for _ in range(layers)]
    if layers:
        bits.number(2 * (8 - layers))
    for has_profile, has_level in has_profile_and_level:
        bits.number(88 * has_profile)
        bits.number(8 * has_level)


CONTAINER = HeifContainer("HEIC", b"heic", b"hvc1", b"hvcC", read_sizes)
