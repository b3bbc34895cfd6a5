"""What the JPEG, PNG and WebP readers share.

Each walks its container once, over bytes that may be hostile: in linear time, with a bound on the
number of pieces, and without a decoder. One piece at a time is in memory; whoever takes it may move
the file's position.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, NamedTuple, Protocol

from imageprocessor.core.position import read_position, xmp_has_position
from imageprocessor.errors import InvalidImageError, TruncatedImageError

MAX_PIECES = 65_536
BLOCK_BYTES = 1 << 18
"""The most that is read at once of what may be long."""

_GAIN_MAP_MARKS = (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1")
_OVERLAP_BYTES = 32


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels as stored, before orientation, and the number of frames."""

    width: int
    height: int
    frames: int


class Piece(NamedTuple):
    """A segment or chunk, or a block of one that holds pixels.

    ``kinds`` names the metadata in it, ``payload`` is that metadata's content where a reader can
    use it (EXIF: from its byte order mark on; ICC), and ``clean`` is what stands in its place in a
    file without metadata. ``is_animation`` tells what a PNG's first picture does without.
    """

    clean: bytes = b""
    kinds: tuple[str, ...] = ()
    payload: bytes = b""
    is_animation: bool = False

    @property
    def exif(self) -> bytes:
        """The EXIF block in it; readers go by the first piece that has one."""
        return self.payload if "exif" in self.kinds else b""


class Container(Protocol):
    """One container format; the modules jpeg, png and webp are its implementations."""

    def read_header(self, file: BinaryIO) -> Header:
        """Read the header alone; a file that is cut off later passes."""

    def read_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Yield the whole file in order."""

    def exif_piece(self, exif: bytes) -> bytes:
        """Wrap an EXIF block."""

    def decode_icc(self, payloads: Sequence[bytes]) -> bytes:
        """Return the ICC profile in the payloads, one or more, of the "icc" pieces."""

    def join(self, parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
        """Make a file, of about that size, of what is left of its pieces."""


def metadata_piece(kind: str, payload: bytes = b"") -> Piece:
    """Describe a piece that is dropped, with what is inside it.

    A place, a preview picture, an HDR gain map.
    """
    inside = {
        "gps": (kind == "exif" and read_position(payload) is not None)
        or (kind == "xmp" and xmp_has_position(payload)),
        "thumbnail": kind == "exif" and b"\xff\xd8\xff" in payload,
        "gain_map": kind in {"xmp", "trailer"} and any(mark in payload for mark in _GAIN_MAP_MARKS),
    }
    kinds = (kind, *(name for name, is_there in inside.items() if is_there))
    return Piece(kinds=kinds, payload=payload if kind == "exif" else b"")


def find_exif(pieces: Iterable[Piece]) -> bytes:
    """Return the EXIF block of the first piece that has one, or nothing."""
    for piece in pieces:
        if piece.exif:
            return piece.exif
    return b""


def trailer_pieces(file: BinaryIO, start: int) -> Iterator[Piece]:
    """Describe what follows the picture, in blocks that overlap by more than any mark is long."""
    size = file_size(file)
    for position in range(start, size, BLOCK_BYTES - _OVERLAP_BYTES):
        yield metadata_piece(
            "trailer", read_range(file, position, min(position + BLOCK_BYTES, size))
        )


def read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """Read on from the file's position; ``TruncatedImageError`` if it ends first."""
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise truncated(file)
    return data


def read_range(file: BinaryIO, start: int, end: int) -> bytes:
    """Read the bytes from ``start`` to ``end``; ``TruncatedImageError`` if the file ends first."""
    file.seek(start)
    return read_exactly(file, end - start)


def read_blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Read the bytes from ``start`` to ``end`` in blocks, so that few are in memory."""
    for position in range(start, end, BLOCK_BYTES):
        yield read_range(file, position, min(position + BLOCK_BYTES, end))


def write_parts(parts: Iterable[bytes], size_bytes: int) -> BytesIO:
    """Write the parts to a file in memory, each as it comes.

    ``bytes.join`` would first collect them all.

    It has room for ``size_bytes`` from the start: to grow may cost more than all the writing.
    """
    file = BytesIO(bytes(size_bytes))
    file.writelines(parts)
    file.truncate()
    return file


def file_size(file: BinaryIO) -> int:
    """Return the number of bytes; moves the position."""
    return file.seek(0, os.SEEK_END)


def truncated(file: BinaryIO) -> TruncatedImageError:
    """Make the error for a file that ends too early."""
    return TruncatedImageError(
        f"The file ends after {file_size(file)} bytes, before the picture does: "
        "send the whole file."
    )


def too_many_pieces() -> InvalidImageError:
    """Make the error for a file of ``MAX_PIECES`` parts or more."""
    return InvalidImageError(
        f"The file has more than {MAX_PIECES} parts: no real picture has. Save it anew."
    )
