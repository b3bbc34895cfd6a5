"""Reading a few EXIF tags from a TIFF block that may be hostile.

Constants are from TIFF 6.0 and EXIF 2.32. Pillow's reader warns about damage and can raise almost
any exception, so it does not suit files that are often damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from contextlib import suppress

ASCII, SHORT, LONG, RATIONAL, SRATIONAL = 2, 3, 4, 5, 10
_LAYOUTS = {ASCII: "c", SHORT: "H", LONG: "I", RATIONAL: "II", SRATIONAL: "ii"}
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRY_BYTES = 12
_MAX_VALUE_BYTES = 1024

Value = tuple[int, ...] | bytes
Tags = dict[int, Value]


def read_tags(tiff: bytes, wanted: Collection[int], *, offset: int | None = None) -> Tags:
    """Return the ``wanted`` tags of the directory at ``offset``, by default the first one.

    An ASCII value is bytes, a SHORT or LONG value a tuple of numbers, and a RATIONAL or SRATIONAL
    value a tuple of alternating numerators and denominators. Values that are damaged, of another
    type, or larger than 1 KiB are omitted. If a tag has several entries, the first one counts.

    >>> block = bytes.fromhex("4D4D002A 00000008 0001 0112 0003 00000001 00060000 00000000")
    >>> read_tags(block, {0x0112})
    {274: (6,)}
    """
    tags: Tags = {}
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return tags
    with suppress(struct.error):  # the block ends early: return the tags read so far
        if offset is None:
            [offset] = struct.unpack_from(f"{order}I", tiff, 4)
        [count] = struct.unpack_from(f"{order}H", tiff, offset)
        first = offset + 2
        for entry in range(first, first + count * _ENTRY_BYTES, _ENTRY_BYTES):
            [tag] = struct.unpack_from(f"{order}H", tiff, entry)
            if tag not in wanted or tag in tags:
                continue
            value = _read_value(tiff, order, entry)
            if value:
                tags[tag] = value
    return tags


def _read_value(tiff: bytes, order: str, entry: int) -> Value | None:
    kind, count = struct.unpack_from(f"{order}HI", tiff, entry + 2)
    layout = _LAYOUTS.get(kind, "")
    size = struct.calcsize(f"{order}{layout}") * count
    if not 0 < size <= _MAX_VALUE_BYTES:
        return None
    position = entry + 8
    if size > 4:  # otherwise the entry contains the value
        [position] = struct.unpack_from(f"{order}I", tiff, position)
    if position + size > len(tiff):
        return None
    if kind == ASCII:
        return tiff[position : position + size]
    return struct.unpack_from(f"{order}{layout * count}", tiff, position)
