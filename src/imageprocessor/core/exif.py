"""Reading the few EXIF tags that matter here out of a TIFF block that may be hostile.

Figures are those of TIFF 6.0 and EXIF 2.32. Pillow's reader warns on damage and can raise nearly
anything, so it does not fit a place where damage is normal.
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
    """Return the ``wanted`` tags of one directory: the one at ``offset``, or the block's first.

    An ASCII value comes as bytes, SHORT and LONG as a tuple of numbers, RATIONAL and SRATIONAL as
    numerators and denominators in turn. What is damaged, of another type, or larger than 1 KiB is
    left out; the first of several entries wins.

    >>> block = bytes.fromhex("4D4D002A 00000008 0001 0112 0003 00000001 00060000 00000000")
    >>> read_tags(block, {0x0112})
    {274: (6,)}
    """
    tags: Tags = {}
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return tags
    with suppress(struct.error):  # the block ends here: what was read so far counts
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
    if size > 4:  # else the value itself is in the entry
        [position] = struct.unpack_from(f"{order}I", tiff, position)
    if position + size > len(tiff):
        return None
    if kind == ASCII:
        return tiff[position : position + size]
    return struct.unpack_from(f"{order}{layout * count}", tiff, position)
