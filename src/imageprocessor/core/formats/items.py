"""Reading the items of an HEIF file: where their data is, their properties and references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from imageprocessor.core.formats.boxes import (
    Box,
    index_boxes,
    read_boxes,
    read_table,
    read_top_boxes,
)
from imageprocessor.core.formats.container import (
    BLOCK_BYTES,
    MAX_PIECES,
    read_range,
    too_many_pieces,
    truncated,
)
from imageprocessor.errors import InvalidImageError

_MAX_ITEMS = 4096


@dataclass(slots=True)
class Item:
    """An item: its type, where its data is, its properties, and the items it refers to by type."""

    number: int
    kind: bytes
    content_type: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bool, Box]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)

    def find(self, name: bytes) -> Box | None:
        """Return the first property of that name."""
        return next((box for _, box in self.properties if box.name == name), None)


class ItemData:
    """The data of an item, which may be in several parts of the file."""

    def __init__(self, file: BinaryIO, extents: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._extents = extents
        self.size_bytes = sum(end - start for start, end in extents)

    def read(self, position: int, size_bytes: int) -> bytes:
        """Return up to *size_bytes* from *position*; raise an error if the file ends first."""
        parts = []
        for start, end in self._extents:
            length = end - start
            if position < length and size_bytes > 0:
                part_end = min(start + position + size_bytes, end)
                part = read_range(self._file, start + position, part_end)
                parts.append(part)
                size_bytes -= len(part)
                position = 0
            else:
                position -= min(position, length)
        return b"".join(parts)

    def blocks(self) -> Iterator[bytes]:
        """Yield all of it."""
        for position in range(0, self.size_bytes, BLOCK_BYTES):
            yield self.read(position, BLOCK_BYTES)


class Meta(NamedTuple):
    """The items of a file by number, and the number of its main image."""

    items: dict[int, Item]
    primary: int


def read_meta(file: BinaryIO) -> Meta:
    """Return the items that the first "meta" box of the file describes."""
    for box in read_top_boxes(file):
        if box.name == b"meta":
            return _read_items(file, box)
        if not box.name:
            break
    raise truncated(file)


def _read_items(file: BinaryIO, meta: Box) -> Meta:
    boxes = index_boxes(file, meta.start + 4, meta.end)
    missing = {b"pitm", b"iinf", b"iloc", b"iprp"} - boxes.keys()
    if missing:
        raise InvalidImageError(
            f"The file has no box {min(missing)!r}, so it has no still image. Re-encode it."
        )
    fields = read_table(file, boxes[b"pitm"])
    version, _ = fields.version_and_flags()
    primary = fields.number(4 if version else 2)
    items = _read_types(file, boxes[b"iinf"])
    _read_locations(file, boxes[b"iloc"], boxes.get(b"idat"), items)
    _read_properties(file, boxes[b"iprp"], items)
    if b"iref" in boxes:
        _read_references(file, boxes[b"iref"], items)
    return Meta(items, primary)


def _read_types(file: BinaryIO, iinf: Box) -> dict[int, Item]:
    """Return the items by number, with their types."""
    version = read_range(file, iinf.start, iinf.start + 1)[0]
    items: dict[int, Item] = {}
    for box in read_boxes(file, iinf.start + (8 if version else 6), iinf.end):
        fields = read_table(file, box)
        version, _ = fields.version_and_flags()
        if box.name != b"infe" or version < 2:
            continue
        number = fields.number(2 if version == 2 else 4)
        is_protected = fields.number(2)
        item = Item(number, fields.read(4))
        fields.text()  # its name
        if item.kind == b"mime":
            item.content_type = fields.text()
        if not is_protected:
            items.setdefault(number, item)
        if len(items) > _MAX_ITEMS:
            raise InvalidImageError(
                f"The file has more than {_MAX_ITEMS} items, unlike any real image. Re-encode it."
            )
    return items


def _read_locations(file: BinaryIO, iloc: Box, idat: Box | None, items: dict[int, Item]) -> None:
    """Add where the data of each item is."""
    fields = read_table(file, iloc)
    version, _ = fields.version_and_flags()
    number_bytes = 2 if version < 2 else 4
    offset_bytes, length_bytes = divmod(fields.number(1), 16)
    base_bytes, index_bytes = divmod(fields.number(1), 16)
    pieces = 0
    for _ in range(fields.number(number_bytes)):
        item = items.get(fields.number(number_bytes))
        method = fields.number(2) & 15 if version else 0
        is_elsewhere = fields.number(2) != 0
        base = fields.number(base_bytes)
        extents = []
        for _ in range(fields.number(2)):
            if version:
                fields.number(index_bytes)
            start = base + fields.number(offset_bytes)
            extents.append((start, start + fields.number(length_bytes)))
            pieces += 1
            if pieces > MAX_PIECES:
                raise too_many_pieces()
        if item is None or item.extents or is_elsewhere:
            continue
        if method == 0:
            item.extents = extents
        elif method == 1 and idat is not None:
            shifted = [(idat.start + start, idat.start + end) for start, end in extents]
            if all(end <= idat.end for _, end in shifted):
                item.extents = shifted


def _read_properties(file: BinaryIO, iprp: Box, items: dict[int, Item]) -> None:
    """Add the properties of each item, and whether each is essential."""
    properties: list[Box] = []
    associations = []
    for box in read_boxes(file, iprp.start, iprp.end):
        if box.name == b"ipco":
            properties += read_boxes(file, box.start, box.end)
        elif box.name == b"ipma":
            associations.append(box)
    pieces = 0
    for box in associations:
        fields = read_table(file, box)
        version, flags = fields.version_and_flags()
        index_bytes = 2 if flags & 1 else 1
        essential = 1 << 8 * index_bytes - 1
        for _ in range(fields.number(4)):
            item = items.get(fields.number(4 if version else 2))
            for _ in range(fields.number(1)):
                value = fields.number(index_bytes)
                index = value & essential - 1
                if item is None or not 0 < index <= len(properties):
                    continue
                item.properties.append((value >= essential, properties[index - 1]))
                pieces += 1
                if pieces > MAX_PIECES:
                    raise too_many_pieces()


def _read_references(file: BinaryIO, iref: Box, items: dict[int, Item]) -> None:
    """Add the numbers of the items that each item refers to."""
    version = read_range(file, iref.start, iref.start + 1)[0]
    number_bytes = 4 if version else 2
    pieces = 0
    for box in read_boxes(file, iref.start + 4, iref.end):
        fields = read_table(file, box)
        item = items.get(fields.number(number_bytes))
        numbers = [fields.number(number_bytes) for _ in range(fields.number(2))]
        pieces += len(numbers)
        if pieces > MAX_PIECES:
            raise too_many_pieces()
        if item is not None:
            item.references.setdefault(box.name, []).extend(numbers)


def find_primary(meta: Meta) -> Item:
    """Return the main image; raise ``InvalidImageError`` if it is missing."""
    item = meta.items.get(meta.primary)
    if item is None:
        raise InvalidImageError("The file does not have its main image. Re-encode it.")
    return item
