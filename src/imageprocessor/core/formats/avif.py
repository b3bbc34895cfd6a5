"""AVIF (AV1 Image File Format 1.1): images of the coding AV1 in an HEIF container."""

from __future__ import annotations

from collections.abc import Iterator

from imageprocessor.core.formats.bits import Bits
from imageprocessor.core.formats.container import MAX_PIECES, too_many_pieces
from imageprocessor.core.formats.heif import HeifContainer
from imageprocessor.core.formats.items import ItemData

_SEQUENCE_HEADER = 1
_MAX_HEADER_BYTES = 1024


def read_sizes(config: bytes, data: ItemData) -> Iterator[tuple[int, int]]:
    """Yield the largest width and height of each sequence header in an image (AV1, 5.5.1)."""
    start = 4
    while start < len(config):
        unit, size, end = _read_unit(config[start : start + 9], start, len(config))
        if unit == _SEQUENCE_HEADER:
            yield _read_size(config[end - size : end])
        start = end
    position = 0
    for _ in range(MAX_PIECES):
        if position >= data.size_bytes:
            return
        unit, size, end = _read_unit(data.read(position, 10), position, data.size_bytes)
        if unit == _SEQUENCE_HEADER:
            yield _read_size(data.read(end - size, min(size, _MAX_HEADER_BYTES)))
        position = end
    raise too_many_pieces()


def _read_unit(head: bytes, start: int, limit: int) -> tuple[int, int, int]:
    """Return the type of the unit at *start*, the size of its content, and where it ends."""
    flags = head[0]
    header_bytes = 2 if flags & 0x04 else 1
    has_size = flags & 0x02
    size = 0
    if has_size:
        for index, byte in enumerate(head[header_bytes:]):
            size |= (byte & 0x7F) << 7 * index
            if not byte & 0x80:
                header_bytes += index + 1
                break
    else:
        size = limit - start - header_bytes
    end = min(start + header_bytes + max(size, 0), limit)
    return flags >> 3 & 0x0F, end - min(start + header_bytes, end), end


def _read_size(header: bytes) -> tuple[int, int]:
    """Return the largest width and height that a sequence header permits."""
    bits = Bits(header)
    bits.number(4)  # profile, still picture
    is_reduced = bits.number(1)
    if is_reduced:
        bits.number(5)  # level
    else:
        _skip_timing(bits)
    width_bits = bits.number(4) + 1
    height_bits = bits.number(4) + 1
    return bits.number(width_bits) + 1, bits.number(height_bits) + 1


def _skip_timing(bits: Bits) -> None:
    """Skip timing, decoder model and operating points."""
    delay_bits = 0
    if bits.number(1):
        bits.number(64)  # units in a tick, time scale
        if bits.number(1):
            bits.exponential()
        if bits.number(1):
            delay_bits = bits.number(5) + 1
            bits.number(42)
    has_display_delay = bits.number(1)
    for _ in range(bits.number(5) + 1):
        bits.number(12)
        level = bits.number(5)
        if level > 7:
            bits.number(1)
        if delay_bits and bits.number(1):
            bits.number(2 * delay_bits + 1)
        if has_display_delay and bits.number(1):
            bits.number(4)


CONTAINER = HeifContainer("AVIF", b"avif", b"av01", b"av1C", read_sizes)
