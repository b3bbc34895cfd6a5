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
_MAX_VALUE_BYTES = 1024

Value = tuple[int, ...] | bytes
Tags = dict[int, Value]


def read_tags(tiff: bytes, wanted: Collection[int], *, offset: int | None = None) -> Tags:
    """Read the ``wanted`` tags of one directory: the one at ``offset``, or the block's first.

    An ASCII value comes as bytes, SHORT and LONG as a tuple of numbers, RATIONAL and SRATIONAL as
    numerators and denominators in turn. What is damaged, of another type, or larger than 1 KiB is
    left out; the first of several entries wins.

    >>> block = bytes.fromhex("4D4D002A 00000008 0001 0112 0003 00000001 00060000 00000000")
    >>> read_tags(block, {0x0112})
    {274: (6,)}
    """
    tags: Tags = {}
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return tags
    with suppress(struct.error):  # the block ends here: what was read so far counts
        start = struct.unpack_from(f"{order}I", tiff, 4)[0] if offset is None else offset
        for index in range(struct.unpack_from(f"{order}H", tiff, start)[0]):
            entry = start + 2 + 12 * index
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, entry)
            if (
                tag in wanted
                and tag not in tags
                and (value := _read_value(tiff, order, entry, kind, count))
            ):
                tags[tag] = value
    return tags


def _read_value(tiff: bytes, order: str, entry: int, kind: int, count: int) -> Value | None:
    layout = _LAYOUTS.get(kind, "")
    size = struct.calcsize(f"{order}{layout}") * count
    if not 0 < size <= _MAX_VALUE_BYTES:
        return None
    position = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", tiff, entry + 8)[0]
    if position + size > len(tiff):
        return None
    if kind == ASCII:
        return tiff[position : position + size]
    return struct.unpack_from(f"{order}{layout * count}", tiff, position)
