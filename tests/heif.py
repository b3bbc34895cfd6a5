"""AVIF and HEIC files made of single parts, valid and hostile."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pkgutil import resolve_name

import pytest
from PIL import Image, features

import imageprocessor as ip
from imageprocessor.core.formats.registry import FORMATS
from tests.images import encode, photo

BRANDS = {"AVIF": b"avif", "HEIC": b"heic"}
CODINGS = {"AVIF": b"av01", "HEIC": b"hvc1"}
ALPHA = {
    "AVIF": b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0",
    "HEIC": b"urn:mpeg:hevc:2015:auxid:1\0",
}
KINDS = [kind for kind in BRANDS if FORMATS[kind].is_installed]
"""AVIF, and HEIC if it is installed."""
if not features.check("avif"):  # Pillow-SIMD
    KINDS.remove("AVIF")
each_kind = pytest.mark.parametrize("kind", KINDS)
ESSENTIAL = {b"av1C", b"hvcC", b"clap", b"irot", b"imir", b"lsel"}
LIMITS = ip.Limits(mime_types=frozenset({"image/avif", "image/heic"}))


@dataclass(frozen=True)
class Item:
    """An item to write: its properties are whole boxes, its references numbers from 1."""

    kind: bytes
    data: bytes = b""
    properties: tuple[bytes, ...] = ()
    references: Mapping[bytes, Sequence[int]] = field(default_factory=dict, hash=False)
    content_type: bytes = b""

    def with_property(self, *boxes: bytes) -> Item:
        """Return it with other properties in place of those of the same names."""
        names = {name(box) for box in boxes}
        others = [box for box in self.properties if name(box) not in names]
        return replace(self, properties=(*others, *boxes))

    def without(self, *names: bytes) -> Item:
        return replace(self, properties=tuple(b for b in self.properties if name(b) not in names))


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def full_box(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def name(data: bytes) -> bytes:
    return data[4:8]


def split(content: bytes) -> list[bytes]:
    """Return the boxes of which the content of another one consists."""
    boxes = []
    while content:
        size = int.from_bytes(content[:4])
        boxes.append(content[:size])
        content = content[size:]
    return boxes


def find(content: bytes, kind: bytes) -> bytes:
    """Return the content of the first box of that name."""
    return next(data for data in split(content) if name(data) == kind)[8:]


def ispe(width: int, height: int) -> bytes:
    return full_box(b"ispe", struct.pack(">II", width, height))


def nclx(primaries: int, transfer: int, matrix: int = 6) -> bytes:
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0x80))


def clap(width: int, height: int, left: int, top: int, image: Item) -> bytes:
    """Return the property that keeps a box of an image."""
    full_width, full_height = struct.unpack(">II", find(b"".join(image.properties), b"ispe")[4:])
    across = 2 * left + width - full_width
    down = 2 * top + height - full_height
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, across, 2, down, 2))


@cache
def tile(kind: str, seed: int = 0) -> Item:
    """Return an image of 64 x 64 pixels as an item."""
    return coded(photo(64, 64, seed), kind)


def coded(image: Image.Image, kind: str) -> Item:
    """Return an image as the item that Pillow or pillow_heif would write."""
    resolve_name(FORMATS[kind].decoder)  # this registers the encoder
    data = encode(image, kind, **({"speed": 10} if kind == "AVIF" else {}))
    properties = find(find(find(data, b"meta")[4:], b"iprp"), b"ipco")
    return Item(CODINGS[kind], find(data, b"mdat"), tuple(split(properties)))


def grid(tiles: Sequence[int], columns: int, width: int, height: int) -> Item:
    """Return a grid of the tiles with these numbers."""
    rows = len(tiles) // columns
    data = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    return Item(b"grid", data, (ispe(width, height),), {b"dimg": tiles})


def alpha_of(base: int, item: Item, kind: str) -> Item:
    """Return an image as the alpha channel of the one with the number *base*."""
    properties = (*item.without(b"colr").properties, full_box(b"auxC", ALPHA[kind]))
    return replace(item, properties=properties, references={b"auxl": [base]})


def exif_item(exif: bytes) -> Item:
    return Item(b"Exif", bytes(4) + exif, (), {b"cdsc": [1]})


def xmp_item(xmp: bytes) -> Item:
    return Item(b"mime", xmp, (), {b"cdsc": [1]}, content_type=b"application/rdf+xml")


def heif(
    kind: str,
    *items: Item,
    primary: int = 1,
    in_meta: bool = False,
    more: bytes = b"",
    brands: Sequence[bytes] = (),
) -> bytes:
    """Return a file of the items; *more* are boxes between its description and its data.

    *in_meta* puts the data of the items into the description.
    """
    brand = BRANDS[kind]
    major, *compatible = brands or (brand, b"mif1", b"miaf")
    head = box(b"ftyp", major, bytes(4), *compatible)
    data = b"".join(item.data for item in items)
    # The description has the same length whatever the positions are.
    start = len(head) + len(_describe(items, primary, 0, data, in_meta=in_meta)) + len(more) + 8
    meta = _describe(items, primary, 0 if in_meta else start, data, in_meta=in_meta)
    return head + meta + more + (b"" if in_meta else box(b"mdat", data))


def _describe(
    items: Sequence[Item], primary: int, start: int, data: bytes, *, in_meta: bool
) -> bytes:
    types = []
    locations = []
    properties: list[bytes] = []
    associations = []
    references = []
    for number, item in enumerate(items, 1):
        content_type = item.content_type + b"\0" if item.content_type else b""
        entry = struct.pack(">HH4s", number, 0, item.kind) + b"\0" + content_type
        types.append(full_box(b"infe", entry, version=2))
        location = (number, int(in_meta), 0, 1, start, len(item.data))
        locations.append(struct.pack(">HHHHII", *location))
        start += len(item.data)
        entries = []
        for prop in item.properties:
            properties.append(prop)
            essential = 0x8000 if name(prop) in ESSENTIAL else 0
            entries.append(struct.pack(">H", essential | len(properties)))
        associations.append(struct.pack(">HB", number, len(entries)) + b"".join(entries))
        for kind, targets in item.references.items():
            counts = struct.pack(">HH", number, len(targets))
            references.append(box(kind, counts, struct.pack(f">{len(targets)}H", *targets)))
    count = struct.pack(">H", len(items))
    return full_box(
        b"meta",
        full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", struct.pack(">H", primary)),
        full_box(b"iinf", count, *types),
        full_box(b"iloc", b"\x44\0", count, *locations, version=1),
        full_box(b"iref", *references),
        box(
            b"iprp",
            box(b"ipco", *properties),
            full_box(b"ipma", b"\0\0", count, *associations, flags=1),
        ),
        box(b"idat", data) if in_meta else b"",
    )
