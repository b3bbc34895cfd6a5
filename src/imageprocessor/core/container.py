"""What the JPEG, PNG and WebP readers share.

Each walks its container once, over bytes that may be hostile: in linear time, with a bound on the number of pieces,
and without a decoder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from imageprocessor.core.position import read_position, xmp_has_position
from imageprocessor.errors import InvalidImageError, TruncatedImageError

Part = bytes | memoryview

MAX_PIECES = 65_536
_GAIN_MAP_MARKS = (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1")


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels as stored, before orientation, and the number of frames."""

    width: int
    height: int
    frames: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment or chunk.

    ``kinds`` names the metadata in it, ``payload`` is that metadata's content where a reader can use it (EXIF: from
    its byte order mark on), and ``clean`` is what stands in its place in a file without metadata, which for most of the
    file is a view of the original.
    """

    clean: Part = b""
    kinds: tuple[str, ...] = ()
    payload: bytes = b""


class Container(Protocol):
    """One container format; the modules jpeg, png and webp are its implementations."""

    def read_header(self, file: BinaryIO) -> Header:
        """Read the header alone; a file that is cut off later passes."""

    def read_pieces(self, data: bytes) -> Iterator[Piece]:
        """Yield the whole file in order."""

    def exif_piece(self, exif: bytes) -> bytes:
        """Wrap an EXIF block."""

    def decode_icc(self, payloads: Sequence[bytes]) -> bytes:
        """Return the ICC profile in the payloads, one or more, of the "icc" pieces."""

    def join(self, parts: Sequence[Part]) -> bytes:
        """Make a file of what is left of its pieces."""


def metadata_piece(kind: str, payload: bytes = b"") -> Piece:
    """Describe a piece that is dropped, with what is inside it: a place, a preview picture, an HDR gain map."""
    inside = {
        "gps": (kind == "exif" and read_position(payload) is not None) or (kind == "xmp" and xmp_has_position(payload)),
        "thumbnail": kind == "exif" and b"\xff\xd8\xff" in payload,
        "gain_map": kind in {"xmp", "trailer"} and any(mark in payload for mark in _GAIN_MAP_MARKS),
    }
    return Piece(kinds=(kind, *(name for name, is_there in inside.items() if is_there)), payload=payload)


def read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """Read on from the file's position; ``TruncatedImageError`` if it ends first."""
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise truncated(file)
    return data


def file_size(file: BinaryIO) -> int:
    """Return the number of bytes; moves the position."""
    return file.seek(0, os.SEEK_END)


def read_all(file: BinaryIO) -> bytes:
    """Read the file from its start; the size given makes a buffered file do so in one allocation."""
    size_bytes = file_size(file)
    file.seek(0)
    return file.read(size_bytes)


def truncated(file: BinaryIO) -> TruncatedImageError:
    """Make the error for a file that ends too early."""
    return TruncatedImageError(
        f"The file ends after {file_size(file)} bytes, before the picture does: send the whole file."
    )


def too_many_pieces() -> InvalidImageError:
    """Make the error for a file of ``MAX_PIECES`` parts or more."""
    return InvalidImageError(f"The file has more than {MAX_PIECES} parts: no real picture has. Save it anew.")
