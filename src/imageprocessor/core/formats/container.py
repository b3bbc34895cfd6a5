"""What the readers of all formats share.

Each reads its file once, over bytes that may be hostile: in linear time, with a bound on the number
of pieces, and without a decoder. One piece at a time is in memory; whoever takes it may move the
file's position.
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
"""The most that is read at once of anything that may be long."""

_GAIN_MAP_MARKS = (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1")
_OVERLAP_BYTES = 32  # more than any mark is long


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
    file without metadata. ``is_animation`` marks what the first image of a PNG does not need.
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
    """What a module of this folder does for its format."""

    def read_header(self, file: BinaryIO) -> Header:
        """Read the header alone; a file that is cut off later passes."""

    def read_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Yield the whole file in order."""

    def exif_piece(self, exif: bytes) -> bytes:
        """Wrap an EXIF block."""

    def decode_icc(self, payloads: Sequence[bytes]) -> bytes:
        """Return the ICC profile in the payloads, one or more, of the "icc" pieces."""

    def join(self, parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
        """Return a file, of about that size, of what is left of its pieces."""


def metadata_piece(kind: str, payload: bytes = b"") -> Piece:
    """Return a piece that is dropped, with the kinds of metadata found inside it."""
    kinds = [kind]
    if kind == "exif":
        if read_position(payload) is not None:
            kinds.append("gps")
        if b"\xff\xd8\xff" in payload:  # a JPEG
            kinds.append("thumbnail")
    if kind == "xmp" and xmp_has_position(payload):
        kinds.append("gps")
    if kind in {"xmp", "trailer"} and any(mark in payload for mark in _GAIN_MAP_MARKS):
        kinds.append("gain_map")
    return Piece(kinds=tuple(kinds), payload=payload if kind == "exif" else b"")


def find_exif(pieces: Iterable[Piece]) -> bytes:
    """Return the EXIF block of the first piece that has one, or nothing."""
    for piece in pieces:
        if piece.exif:
            return piece.exif
    return b""


def find_profile(pieces: Iterable[Piece], container: Container) -> bytes | None:
    """Return the ICC profile in the pieces, or None; a damaged one may be empty."""
    payloads = [piece.payload for piece in pieces if "icc" in piece.kinds]
    return container.decode_icc(payloads) if payloads else None


def trailer_pieces(file: BinaryIO, start: int) -> Iterator[Piece]:
    """Yield what follows the image, in blocks that overlap, so that no mark is cut in two."""
    size = file_size(file)
    for position in range(start, size, BLOCK_BYTES - _OVERLAP_BYTES):
        end = min(position + BLOCK_BYTES, size)
        yield metadata_piece("trailer", read_range(file, position, end))


def read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """Return the next bytes of the file; raise ``TruncatedImageError`` if it ends first."""
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise truncated(file)
    return data


def read_range(file: BinaryIO, start: int, end: int) -> bytes:
    """Return the bytes from start to end; raise ``TruncatedImageError`` if the file ends first."""
    file.seek(start)
    return read_exactly(file, end - start)


def read_blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from ``start`` to ``end`` in blocks, so that few are in memory."""
    for position in range(start, end, BLOCK_BYTES):
        block_end = min(position + BLOCK_BYTES, end)
        yield read_range(file, position, block_end)


def write_parts(parts: Iterable[bytes], size_bytes: int) -> BytesIO:
    """Return a file in memory of the parts, each written as it comes.

    ``bytes.join`` would first collect them all. The file has room for ``size_bytes`` from the
    start: growing may cost more than all the writing.
    """
    file = BytesIO(bytes(size_bytes))
    file.writelines(parts)
    file.truncate()
    return file


def file_size(file: BinaryIO) -> int:
    """Return the number of bytes; moves the position."""
    return file.seek(0, os.SEEK_END)


def truncated(file: BinaryIO) -> TruncatedImageError:
    """Return the error for a file that ends too early."""
    return TruncatedImageError(
        f"The file ends after {file_size(file)} bytes, before the picture does: "
        "send the whole file."
    )


def too_many_pieces() -> InvalidImageError:
    """Return the error for a file of ``MAX_PIECES`` parts or more."""
    return InvalidImageError(
        f"The file has more than {MAX_PIECES} parts: no real picture has. Save it anew."
    )
