"""Writing an HEIF file of checked items, for a decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from imageprocessor.core.formats.items import ItemData

Reference = tuple[bytes, int, list[int]]
"""The type of a reference, the number of the item that has it, and those that it leads to."""

_CONFIGURATIONS = {b"av1C", b"hvcC"}
_ESSENTIAL = 0x8000
_OFFSETS_AND_LENGTHS_OF_4_BYTES = 0x4400


class NewItem(NamedTuple):
    """An item to write: its properties are names and contents. Tiles are hidden."""

    number: int
    kind: bytes
    is_hidden: bool
    properties: list[tuple[bytes, bytes]]
    data: ItemData


def write_file(
    brand: bytes, items: Sequence[NewItem], references: Sequence[Reference]
) -> Iterator[bytes]:
    """Yield a file of the items, of which the first one is the main image.

    They are numbered in order, from 1.
    """
    numbers = {item.number: index + 1 for index, item in enumerate(items)}
    described = b"".join(
        [
            _full_box(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full_box(b"pitm", struct.pack(">H", 1)),
            _write_types(items),
            _write_references(references, numbers),
            _write_properties(items),
        ]
    )
    head = _box(b"ftyp", brand + bytes(4) + brand + b"mif1miaf")
    iloc_bytes = 16 + 14 * len(items)
    position = len(head) + 12 + len(described) + iloc_bytes + 8
    locations = []
    for number, item in enumerate(items, 1):
        size_bytes = item.data.size_bytes
        locations.append(struct.pack(">HHHII", number, 0, 1, position, size_bytes))
        position += size_bytes
    counts = struct.pack(">HH", _OFFSETS_AND_LENGTHS_OF_4_BYTES, len(items))
    iloc = _full_box(b"iloc", counts + b"".join(locations))
    yield head + _full_box(b"meta", described + iloc)
    data_bytes = sum(item.data.size_bytes for item in items)
    yield struct.pack(">I4s", 8 + data_bytes, b"mdat")
    for item in items:
        yield from item.data.blocks()


def _write_types(items: Sequence[NewItem]) -> bytes:
    entries = []
    for number, item in enumerate(items, 1):
        content = struct.pack(">HH4sB", number, 0, item.kind, 0)
        entries.append(_full_box(b"infe", content, version=2, flags=item.is_hidden))
    return _full_box(b"iinf", struct.pack(">H", len(entries)) + b"".join(entries))


def _write_references(references: Iterable[Reference], numbers: dict[int, int]) -> bytes:
    boxes = []
    for name, number, targets in references:
        renumbered = [numbers[target] for target in targets]
        fields = struct.pack(f">HH{len(targets)}H", numbers[number], len(targets), *renumbered)
        boxes.append(_box(name, fields))
    return _full_box(b"iref", b"".join(boxes)) if boxes else b""


def _write_properties(items: Sequence[NewItem]) -> bytes:
    """Return each different property once, and which item has which."""
    indexes: dict[bytes, int] = {}
    associations = []
    for number, item in enumerate(items, 1):
        entries = []
        for name, content in item.properties:
            index = indexes.setdefault(_box(name, content), len(indexes) + 1)
            essential = _ESSENTIAL if name in _CONFIGURATIONS else 0
            entries.append(struct.pack(">H", essential | index))
        associations.append(struct.pack(">HB", number, len(entries)) + b"".join(entries))
    properties = _box(b"ipco", b"".join(indexes))
    count = struct.pack(">I", len(items))
    association = _full_box(b"ipma", count + b"".join(associations), flags=1)
    return _box(b"iprp", properties + association)


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full_box(name: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + content)
