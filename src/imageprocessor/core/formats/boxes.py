"""Boxes of the ISO base media file format (ISO/IEC 14496-12), which AVIF and HEIC consist of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from imageprocessor.core.formats.container import (
    MAX_PIECES,
    file_size,
    read_exactly,
    read_range,
    too_many_pieces,
)
from imageprocessor.errors import InvalidImageError

_MAX_TABLE_BYTES = 1 << 20
"""The most that is read of a box with a table; a thousand tiles need 60 kB."""


class Box(NamedTuple):
    """The name of a box, and where its content starts and ends in the file."""

    name: bytes
    start: int
    end: int


class Fields:
    """The numbers and texts of a box, read one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes; raise ``InvalidImageError`` if the box ends first."""
        end = self._position + size_bytes
        if end > len(self._content):
            raise InvalidImageError("The file has a box that is too short. Re-encode it.")
        value = self._content[self._position : end]
        self._position = end
        return value

    def number(self, size_bytes: int) -> int:
        """Return the next number of 0 to 8 bytes."""
        return int.from_bytes(self.read(size_bytes))

    def text(self) -> bytes:
        """Return the text up to the next zero byte, which is skipped, or to the end."""
        text, _, _ = self._content[self._position :].partition(b"\0")
        self._position = min(self._position + len(text) + 1, len(self._content))
        return text

    def version_and_flags(self) -> tuple[int, int]:
        """Return the version and the flags at the start of a full box."""
        return self.number(1), self.number(3)


def read_brands(head: bytes) -> list[bytes]:
    """Return the brands at the start of a file, the major one first; none in another format.

    >>> read_brands(bytes.fromhex("00000018") + b"ftypmif1" + bytes(4) + b"mif1heic")
    [b'mif1', b'mif1', b'heic']
    """
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4]), len(head))
    starts = [8, *range(16, end - 3, 4)]
    return [head[start : start + 4] for start in starts]


def read_boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes that fill the file from *start* to *end*.

    Raises:
        InvalidImageError: A box does not fit, or there are too many.
    """
    for box in _walk(file, start, end):
        if not box.name or box.end > end:
            raise InvalidImageError(
                f"The file has a damaged box {box.name!r} at byte {box.start}. Re-encode it."
            )
        yield box


def index_boxes(file: BinaryIO, start: int, end: int) -> dict[bytes, Box]:
    """Return the boxes from *start* to *end* by name; the first one of each name counts."""
    boxes: dict[bytes, Box] = {}
    for box in read_boxes(file, start, end):
        boxes.setdefault(box.name, box)
    return boxes


def read_top_boxes(file: BinaryIO) -> Iterator[Box]:
    """Yield the boxes of the whole file; what is none, or goes on behind its end, has no name.

    The data of a truncated file keeps its name, "mdat".
    """
    size = file_size(file)
    for box in _walk(file, 0, size):
        if box.end <= size:
            yield box
        else:
            yield Box(box.name if box.name == b"mdat" else b"", box.start, size)


def read_table(file: BinaryIO, box: Box) -> Fields:
    """Return the fields of a box, which must have at most 1 MiB."""
    if box.end - box.start > _MAX_TABLE_BYTES:
        raise InvalidImageError(
            f"The file has a box {box.name!r} of {box.end - box.start} bytes, unlike any real "
            "image. Re-encode it."
        )
    return Fields(read_range(file, box.start, box.end))


def _walk(file: BinaryIO, position: int, end: int) -> Iterator[Box]:
    """Yield the boxes from *position* on; the rest has no name if it is none.

    The last box may end after *end*.
    """
    for _ in range(MAX_PIECES):
        if position >= end:
            return
        if end - position < 8:
            yield Box(b"", position, end)
            return
        file.seek(position)
        head = read_exactly(file, 8)
        size = int.from_bytes(head[:4])
        start = position + 8
        if size == 1:  # the size is in 8 further bytes
            size = int.from_bytes(file.read(8))
            start += 8
        box_end = position + size if size else end
        if box_end < start:
            yield Box(b"", position, end)
            return
        yield Box(head[4:], start, box_end)
        position = box_end
    raise too_many_pieces()
