"""The container of AVIF and HEIC (HEIF, ISO/IEC 23008-12): items in an ISO base media file.

An item is an image, a grid of images, or metadata. ``read_pieces`` returns a new file with only the
items of the main image, so that a decoder never sees anything else, and nothing that is not checked
here: no further images, no metadata, no loops of references.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from imageprocessor.core.formats.boxes import (
    Box,
    Fields,
    index_boxes,
    read_boxes,
    read_table,
    read_top_boxes,
)
from imageprocessor.core.formats.container import (
    MAX_PIECES,
    Header,
    Layout,
    Piece,
    file_size,
    metadata_piece,
    read_range,
    too_many_pieces,
    trailer_pieces,
    write_parts,
)
from imageprocessor.core.formats.heif_writer import NewItem, Reference, write_file
from imageprocessor.core.formats.items import Item, ItemData, Meta, find_primary, read_meta
from imageprocessor.errors import InputError, InvalidImageError

_MAX_TILES = 1000  # libheif's limit
_MAX_METADATA_BYTES = 16 << 20
_SPARE_TILE_PIXELS = 1 << 22
"""Tiles may have four times the pixels of the image, and this many more: a small image in one."""

_GRID = b"grid"
_ALPHA = {b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"}
_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_TRANSFORMATIONS = {b"clap", b"irot", b"imir"}
_KEPT = {b"ispe", b"pixi"}
_IGNORED = _TRANSFORMATIONS | {b"colr", b"pasp", b"auxC"}
"""Properties that the new file lacks, or has only where they are needed, even if essential."""
_ORIENTATIONS = ((1, 8, 3, 6), (2, 7, 4, 5))
"""EXIF's orientation by whether the image is mirrored, then by quarters of a turn to the left."""

_XMP_TYPE = b"application/rdf+xml"
_ITEM_KINDS = {b"Exif": "exif", b"tmap": "gain_map", b"jumb": "c2pa"}
_UUIDS = {
    bytes.fromhex("d8fec3d61b0e483c92975828877ec481"): "c2pa",
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
}
_STRUCTURE = {b"ftyp", b"styp", b"meta", b"mdat", b"moov", b"free", b"skip", b"wide"}


class _Picture(NamedTuple):
    """An image: an item, and its tiles in order if it is a grid."""

    item: Item
    tiles: list[Item]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class HeifContainer:
    """Reads the files of one coding.

    Args:
        title: the name of the format in messages.
        brand: what the new file declares in its header.
        coding: the type of an item of that coding.
        config: the name of the property with its configuration.
        read_sizes: yields the sizes that the coded image itself declares, given the content of
            *config* and the data of the item.
    """

    title: str
    brand: bytes
    coding: bytes
    config: bytes
    read_sizes: Callable[[bytes, ItemData], Iterator[tuple[int, int]]]

    def read_header(self, file: BinaryIO) -> Header:
        """Return the size of the main image, without what it crops, and the number of frames.

        Raises:
            InvalidImageError: There is no main image, or the container does not follow the format.
            TruncatedImageError: The file ends within what describes the main image.
        """
        meta = read_meta(file)
        picture = self._read_picture(file, meta, find_primary(meta))
        layout = _read_layout(file, picture)
        left, top, right, bottom = layout.box
        frames = sum(1 for _ in self.read_durations(file))
        decoded = (picture.width, picture.height)
        return Header(right - left, bottom - top, max(1, frames), decoded)

    def read_durations(self, file: BinaryIO) -> Iterator[float]:
        """Yield the milliseconds of each frame of the first sequence of images, if there is one."""
        with suppress(InputError):
            for box in read_top_boxes(file):
                if box.name == b"moov":
                    yield from _track_durations(file, box)
                    return

    def read_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Yield what is not part of the main image, without content, then a new file of that image.

        Raises:
            InvalidImageError: The container does not follow the format, an image is not as large as
                declared, or it needs something that is not supported.
            TruncatedImageError: The file ends before the main image does.
        """
        meta = read_meta(file)
        primary = find_primary(meta)
        yield from self._metadata_pieces(file, meta, primary)
        color = self._read_picture(file, meta, primary)
        yield from _color_pieces(file, color)
        yield Piece(layout=_read_layout(file, color))
        pictures = [color]
        references: list[Reference] = []
        alphas = _find_alphas(file, meta)
        for base in (color.item, *color.tiles):
            alpha = alphas.get(base.number)
            if alpha is None:
                continue
            picture = self._read_picture(file, meta, alpha)
            if base is color.item and picture[2:] != color[2:]:
                raise self._wrong("an alpha channel of another size than the image")
            pictures.append(picture)
            references.append((b"auxl", alpha.number, [base.number]))
            if alpha.number in base.references.get(b"prem", ()):
                references.append((b"prem", base.number, [alpha.number]))
        for picture in pictures:
            if picture.tiles:
                numbers = [tile.number for tile in picture.tiles]
                references.append((b"dimg", picture.item.number, numbers))
        items = list(self._describe_coded(file, pictures))
        if sum(item.data.size_bytes for item in items) > file_size(file):
            raise self._wrong("images that share their data")
        for part in write_file(self.brand, items, references):
            yield Piece(part)

    def exif_piece(self, exif: bytes) -> bytes:  # noqa: ARG002 - as in each container
        """Return nothing: these files are not stripped."""
        return b""

    def decode_icc(self, payloads: Sequence[bytes]) -> bytes:
        """Return the first profile."""
        return payloads[0]

    def join(self, parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
        """Return a file of the parts in order."""
        return write_parts(parts, size_bytes).getvalue()

    def _read_picture(self, file: BinaryIO, meta: Meta, item: Item) -> _Picture:
        """Return an image, after checking what it says of its size and of its tiles."""
        width, height = self._read_size(file, item)
        if item.kind == self.coding:
            return _Picture(item, [], width, height)
        if item.kind != _GRID:
            raise self._wrong(f"an image of the type {item.kind!r}")
        numbers = item.references.get(b"dimg", [])
        columns, rows = self._read_grid(file, item, width, height)
        if columns * rows != len(numbers) or len(numbers) > _MAX_TILES:
            raise self._wrong(
                f"a grid of {columns} x {rows} tiles, but {len(numbers)} images in it; at most "
                f"{_MAX_TILES} are accepted"
            )
        tiles = [self._find_tile(meta, number) for number in numbers]
        sizes = {
            self._read_size(file, tile) for tile in {id(tile): tile for tile in tiles}.values()
        }
        if len(sizes) > 1:
            raise self._wrong("a grid of tiles of different sizes")
        [(tile_width, tile_height)] = sizes
        covers = columns * tile_width >= width and rows * tile_height >= height
        pixels = len(tiles) * tile_width * tile_height
        if not covers or pixels > 4 * width * height + _SPARE_TILE_PIXELS:
            raise self._wrong(
                f"a grid of {columns} x {rows} tiles of {tile_width} x {tile_height} pixels for an "
                f"image of {width} x {height} pixels"
            )
        return _Picture(item, tiles, width, height)

    def _find_tile(self, meta: Meta, number: int) -> Item:
        tile = meta.items.get(number)
        if tile is None or tile.kind != self.coding:
            raise self._wrong("a grid with a tile that is missing or of another type")
        return tile

    def _read_size(self, file: BinaryIO, item: Item) -> tuple[int, int]:
        """Return the width and height that an image declares; its properties must be known."""
        known = _KEPT | _IGNORED | {self.config}
        for is_essential, box in item.properties:
            if is_essential and box.name not in known:
                raise self._wrong(f"an image that needs the property {box.name!r}")
        size = item.find(b"ispe")
        if size is None:
            raise self._wrong("an image without a size")
        fields = read_table(file, size)
        fields.version_and_flags()
        return fields.number(4), fields.number(4)

    def _read_grid(self, file: BinaryIO, item: Item, width: int, height: int) -> tuple[int, int]:
        """Return columns and rows of a grid, after checking that it has the declared size."""
        fields = Fields(ItemData(file, item.extents).read(0, 16))
        fields.number(1)
        number_bytes = 4 if fields.number(1) & 1 else 2
        rows = fields.number(1) + 1
        columns = fields.number(1) + 1
        found = (fields.number(number_bytes), fields.number(number_bytes))
        if found != (width, height):
            raise self._wrong_size((width, height), found)
        return columns, rows

    def _check_data(self, file: BinaryIO, item: Item) -> None:
        """Raise ``InvalidImageError`` if an image is not coded with the size that it declares."""
        declared = self._read_size(file, item)
        config = self._read_config(file, item)
        sizes = set(self.read_sizes(config, ItemData(file, item.extents)))
        if sizes != {declared}:
            raise self._wrong_size(declared, *sorted(sizes - {declared}))

    def _read_config(self, file: BinaryIO, item: Item) -> bytes:
        box = item.find(self.config)
        if box is None:
            raise self._wrong(f"an image without the property {self.config!r}")
        size = box.end - box.start
        return read_table(file, box).read(size)

    def _metadata_pieces(self, file: BinaryIO, meta: Meta, primary: Item) -> Iterator[Piece]:
        """Yield the metadata, and whatever else is in the file besides the main image."""
        used = {primary.number, *primary.references.get(b"dimg", ())}
        alphas = _find_alphas(file, meta)
        for number in tuple(used):
            if number in alphas:
                used.add(alphas[number].number)
        for item in meta.items.values():  # what is said of a grid is said of its tiles
            used.update(item.references.get(b"dimg", ()))
        unread_bytes = file_size(file)  # items may share their data, which is read only once
        for item in meta.items.values():
            if item.number not in used:
                data = ItemData(file, item.extents)
                unread_bytes -= data.size_bytes
                yield _describe_item(file, item, data if unread_bytes >= 0 else None)
        for box in read_top_boxes(file):
            if not box.name:
                yield from trailer_pieces(file, box.start)
            elif box.name == b"uuid":
                content = read_range(file, box.start, min(box.end, box.start + _MAX_METADATA_BYTES))
                yield metadata_piece(_UUIDS.get(content[:16], "other"), content[16:])
            elif box.name not in _STRUCTURE:
                yield metadata_piece("other")

    def _describe_coded(self, file: BinaryIO, pictures: Sequence[_Picture]) -> Iterator[NewItem]:
        """Yield the items of the pictures, after checking how they are coded."""
        items: dict[int, Item] = {}
        tiles: set[int] = set()
        for picture in pictures:
            items[picture.item.number] = picture.item
            for tile in picture.tiles:
                items[tile.number] = tile
                tiles.add(tile.number)
        for number, item in items.items():
            if item.kind == self.coding:
                self._check_data(file, item)
            properties = []
            for _, box in item.properties:
                content = self._read_needed(file, box)
                if content:
                    properties.append((box.name, content))
            data = ItemData(file, item.extents)
            yield NewItem(number, item.kind, number in tiles, properties, data)

    def _read_needed(self, file: BinaryIO, box: Box) -> bytes:
        """Return the content of a property that a decoder needs, or empty bytes."""
        is_alpha = box.name == b"auxC" and _read_aux_type(file, box) in _ALPHA
        if box.name in _KEPT or box.name == self.config or is_alpha:
            return read_table(file, box).read(box.end - box.start)
        if box.name == b"colr" and read_range(file, box.start, box.start + 4) == b"nclx":
            return read_range(file, box.start, min(box.end, box.start + 11))
        return b""

    def _wrong(self, what: str) -> InvalidImageError:
        return InvalidImageError(f"The {self.title} has {what}. Re-encode it.")

    def _wrong_size(self, declared: tuple[int, int], *found: tuple[int, int]) -> InvalidImageError:
        sizes = " and ".join(f"{width} x {height}" for width, height in found) or "no size"
        return self._wrong(
            f"an image of {declared[0]} x {declared[1]} pixels that is coded with {sizes}"
        )


def _find_alphas(file: BinaryIO, meta: Meta) -> dict[int, Item]:
    """Return the alpha channels by the number of the image that each belongs to."""
    alphas: dict[int, Item] = {}
    for item in meta.items.values():
        box = item.find(b"auxC")
        if box is None or _read_aux_type(file, box) not in _ALPHA:
            continue
        for number in item.references.get(b"auxl", ()):
            alphas.setdefault(number, item)
    return alphas


def _read_aux_type(file: BinaryIO, box: Box) -> bytes:
    fields = read_table(file, box)
    fields.version_and_flags()
    return fields.text()


def _read_layout(file: BinaryIO, picture: _Picture) -> Layout:
    """Return the size of an image as coded, the box that is kept, and its orientation."""
    crop = (0, 0, picture.width, picture.height)
    quarters = 0
    is_mirrored = False
    is_turned = False
    for _, box in picture.item.properties:
        if box.name not in _TRANSFORMATIONS:
            continue
        fields = read_table(file, box)
        if box.name == b"clap":
            if is_turned:
                raise InvalidImageError("The image is turned before it is cropped. Re-encode it.")
            crop = _read_crop(fields, picture.width, picture.height)
            continue
        is_turned = True
        if box.name == b"irot":
            turned = fields.number(1) & 3
            quarters += -turned if is_mirrored else turned
        else:
            swaps_left_and_right = fields.number(1) & 1
            quarters += 0 if swaps_left_and_right else 2
            is_mirrored = not is_mirrored
    orientation = _ORIENTATIONS[is_mirrored][quarters % 4]
    return Layout(picture.width, picture.height, crop, orientation)


def _read_crop(fields: Fields, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the box that is kept, whose offset is that of its middle from the image's middle."""
    numbers = struct.unpack(">IIIIiIiI", fields.read(32))
    fault = InvalidImageError(f"The image of {width} x {height} pixels is cropped to a wrong box.")
    if 0 in numbers[1::2]:
        raise fault
    new_width, new_height, across, down = map(Fraction, numbers[::2], numbers[1::2])
    left = across + (width - new_width) / 2
    top = down + (height - new_height) / 2
    edges = [left, top, left + new_width, top + new_height]
    is_within = 0 <= edges[0] < edges[2] <= width and 0 <= edges[1] < edges[3] <= height
    if not is_within or any(edge.denominator != 1 for edge in edges):
        raise fault
    return int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3])


def _color_pieces(file: BinaryIO, picture: _Picture) -> Iterator[Piece]:
    """Yield the ICC profile, or otherwise the colour space that the image names, as in a PNG."""
    boxes = [box for _, box in picture.item.properties if box.name == b"colr"]
    for tile in picture.tiles[:1]:
        boxes += [box for _, box in tile.properties if box.name == b"colr"]
    named = b""
    for box in boxes:
        kind = read_range(file, box.start, box.start + 4)
        end = min(box.end, box.start + _MAX_METADATA_BYTES)
        content = read_range(file, box.start + 4, end) if end > box.start + 4 else b""
        if kind in {b"prof", b"rICC"}:
            yield Piece(kinds=("icc",), payload=content)
            return
        if kind == b"nclx" and len(content) >= 4 and not named:
            primaries, transfer = struct.unpack_from(">HH", content)
            if max(primaries, transfer) < 256:
                named = bytes((primaries, transfer, 0, 1))  # decoded as RGB of full range
    if named:
        yield Piece(color_chunk=b"cICP" + named)


def _describe_item(file: BinaryIO, item: Item, data: ItemData | None) -> Piece:
    """Return the kind of metadata that an item is, with its content where that matters."""
    kind = _ITEM_KINDS.get(item.kind, "other")
    if item.content_type == _XMP_TYPE:
        kind = "xmp"
    elif b"thmb" in item.references:
        kind = "thumbnail"
    elif b"auxl" in item.references:
        box = item.find(b"auxC")
        is_gain_map = box is not None and _read_aux_type(file, box) == _GAIN_MAP
        kind = "gain_map" if is_gain_map else "other"
    content = b""
    if kind in {"exif", "xmp"} and data is not None:
        with suppress(InputError):
            content = data.read(0, _MAX_METADATA_BYTES)
    if kind == "exif":
        start = 4 + int.from_bytes(content[:4])
        content = content[start:].removeprefix(b"Exif\0\0")
    return metadata_piece(kind, content)


def _track_durations(file: BinaryIO, moov: Box) -> Iterator[float]:
    """Yield the milliseconds of each frame of the first track of images."""
    for track in read_boxes(file, moov.start, moov.end):
        if track.name != b"trak":
            continue
        media = _find_box(file, track, b"mdia")
        if media is None:
            continue
        boxes = index_boxes(file, media.start, media.end)
        table = _find_box(file, media, b"minf", b"stbl", b"stts")
        if table is None or not {b"mdhd", b"hdlr"} <= boxes.keys():
            continue
        handler = boxes[b"hdlr"].start + 8
        if read_range(file, handler, handler + 4) != b"pict":
            continue
        fields = read_table(file, boxes[b"mdhd"])
        version, _ = fields.version_and_flags()
        fields.read(16 if version else 8)
        ticks_per_second = fields.number(4) or 1
        fields = read_table(file, table)
        fields.version_and_flags()
        frames = 0
        for _ in range(fields.number(4)):
            count, ticks = fields.number(4), fields.number(4)
            frames += count
            if frames > MAX_PIECES:
                raise too_many_pieces()
            for _ in range(count):
                yield 1000 * ticks / ticks_per_second
        return


def _find_box(file: BinaryIO, box: Box, *path: bytes) -> Box | None:
    """Return the box at the end of *path* in *box*, or None."""
    found: Box | None = box
    for name in path:
        if found is None:
            return None
        found = index_boxes(file, found.start, found.end).get(name)
    return found
