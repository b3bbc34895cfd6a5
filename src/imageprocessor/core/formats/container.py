"""What the readers of all formats share.

The bytes may be hostile. Each reader goes through its file once, in linear time, with a limit on
the number of pieces, and without a decoder. Only one piece at a time is in memory. Code that
consumes pieces may move the file's position between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple, Protocol

from imageprocessor.core.position import exif_has_position, xmp_has_position
from imageprocessor.errors import InvalidImageError, TruncatedImageError

MAX_PIECES = 65_536
BLOCK_BYTES = 1 << 18
"""The most that is read at once from a part that may be long."""

_GAIN_MAP_MARKS = (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1")
_OVERLAP_BYTES = 32  # longer than any mark


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels as stored, before orientation, and the number of frames.

    *decoded* is the size that a decoder may need memory for, if it is larger than the image.
    """

    width: int
    height: int
    frames: int
    decoded: tuple[int, int] | None = None


class Layout(NamedTuple):
    """The size of what a decoder returns, the box of it to keep, and its orientation, 1 to 8."""

    width: int
    height: int
    box: tuple[int, int, int, int]
    orientation: int


class Coding(NamedTuple):
    """How a file codes its pixels.

    ``jpeg_quality`` is 1 to 100 as libjpeg counts it, or None if the file does not show one.
    ``waste`` is the length of a lossless file divided by that of the same image as a lossless WebP,
    at most, unless it is hardly compressed. ``is_denser`` says that the format takes fewer bytes
    for the same likeness than WebP, so that the length of the file is no measure for a WebP's.
    """

    is_lossless: bool = False
    jpeg_quality: int | None = None
    waste: float = 1
    is_denser: bool = False


class CodedData(NamedTuple):
    """Where the coded data of a JPEG's scan starts and ends."""

    start: int
    end: int


class Piece(NamedTuple):
    """A segment or chunk, or a block of one that contains pixels.

    ``kinds`` names the metadata in it. ``payload`` is the content of EXIF (from its byte order mark
    on) or of an ICC profile, and empty for other kinds. ``clean`` is what replaces the piece in a
    file without metadata. ``is_animation`` marks pieces that the first image of a PNG does not
    need, ``is_coded`` the coded data of a JPEG. ``is_end_added`` marks an end mark that the file
    lacks. ``color_chunk`` is the name and content of a PNG's chunk that declares a colour space, or
    the same of another format. ``layout`` is what an AVIF or HEIC declares; EXIF does not count.
    """

    clean: bytes = b""
    kinds: tuple[str, ...] = ()
    payload: bytes = b""
    is_animation: bool = False
    color_chunk: bytes = b""
    is_coded: bool = False
    is_end_added: bool = False
    layout: Layout | None = None

    @property
    def exif(self) -> bytes:
        """The EXIF block in it; of several pieces with EXIF, the first one counts."""
        return self.payload if "exif" in self.kinds else b""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of an animation, and how it is drawn.

    Args:
        still: the frame as a file of its own, without metadata.
        left, top, width, height: its part of the canvas, in pixels.
        milliseconds: how long it is shown, as stored.
        blends: draw it over what is there; otherwise, replace that.
        disposal: whether to keep it when the next one is drawn, to clear its part of the canvas, or
            to restore what was there before.
    """

    still: bytes
    left: int
    top: int
    width: int
    height: int
    milliseconds: float
    blends: bool
    disposal: Literal["keep", "clear", "restore"]


class Frames(NamedTuple):
    """The frames of an animation, and how often it is played; 0 means for ever."""

    frames: list[Frame]
    plays: int


class Container(Protocol):
    """The functions that each format's module in this folder provides."""

    def read_header(self, file: BinaryIO) -> Header:
        """Read only the header; accept a file that is truncated after it."""

    def read_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Yield the pieces of the whole file in order."""

    def exif_piece(self, exif: bytes) -> bytes:
        """Return a segment or chunk that contains an EXIF block."""

    def decode_icc(self, payloads: Sequence[bytes]) -> bytes:
        """Return the ICC profile from the payloads of the "icc" pieces, one or more."""

    def join(self, parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
        """Return a file of the clean parts of its pieces; *size_bytes* is an estimate."""


def metadata_piece(kind: str, payload: bytes = b"") -> Piece:
    """Return a piece to drop, with the kinds of metadata found inside it."""
    kinds = [kind]
    if kind == "exif":
        if exif_has_position(payload):
            kinds.append("gps")
        if b"\xff\xd8\xff" in payload:  # a JPEG
            kinds.append("thumbnail")
    if kind == "xmp" and xmp_has_position(payload):
        kinds.append("gps")
    if kind in {"xmp", "trailer"} and any(mark in payload for mark in _GAIN_MAP_MARKS):
        kinds.append("gain_map")
    return Piece(kinds=tuple(kinds), payload=payload if kind == "exif" else b"")


def lossy_coding(_data: bytes) -> Coding:
    """Return the coding of any file in a format that always loses something."""
    return Coding()


def denser_coding(_data: bytes) -> Coding:
    """Return the coding of any file in a lossy format that outdoes WebP."""
    return Coding(is_denser=True)


def find_exif(pieces: Iterable[Piece]) -> bytes:
    """Return the EXIF block of the first piece that has one, or empty bytes."""
    for piece in pieces:
        if piece.exif:
            return piece.exif
    return b""


def find_layout(pieces: Iterable[Piece]) -> Layout | None:
    """Return the layout of an AVIF or HEIC, or None for other formats."""
    return next((piece.layout for piece in pieces if piece.layout), None)


def find_profile(pieces: Iterable[Piece], container: Container) -> bytes | None:
    """Return the ICC profile in the pieces, or None; a damaged profile may be empty bytes."""
    payloads = [piece.payload for piece in pieces if "icc" in piece.kinds]
    return container.decode_icc(payloads) if payloads else None


def find_color_chunks(pieces: Iterable[Piece]) -> dict[bytes, bytes]:
    """Return the content of a PNG's chunks that declare a colour space, by name; the first counts.

    It is empty for other formats.
    """
    chunks: dict[bytes, bytes] = {}
    for piece in pieces:
        if piece.color_chunk:
            chunks.setdefault(piece.color_chunk[:4], piece.color_chunk[4:])
    return chunks


def add_durations(durations: Iterable[float]) -> float:
    """Return the seconds that browsers take for frames of these milliseconds.

    They show a frame of 10 ms or less for 100 ms, because old programs wrote 0 for no hurry.

    >>> add_durations([40, 40, 0])
    0.18
    """
    total = sum(milliseconds if milliseconds > 10 else 100 for milliseconds in durations)
    return round(total / 1000, 3)


def trailer_pieces(file: BinaryIO, start: int) -> Iterator[Piece]:
    """Yield the trailing bytes in blocks that overlap, so that no mark is split between two."""
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
    """Yield the bytes from ``start`` to ``end`` in blocks, to save memory."""
    for position in range(start, end, BLOCK_BYTES):
        block_end = min(position + BLOCK_BYTES, end)
        yield read_range(file, position, block_end)


def write_parts(parts: Iterable[bytes], size_bytes: int) -> BytesIO:
    """Return an in-memory file of the parts, each written as soon as it is read.

    ``bytes.join`` would first collect all of them. Allocate ``size_bytes`` at the start, because
    growing the file can cost more than writing it.
    """
    file = BytesIO(bytes(size_bytes))
    file.writelines(parts)
    file.truncate()
    return file


def file_size(file: BinaryIO) -> int:
    """Return the number of bytes in the file; this moves the file's position."""
    return file.seek(0, os.SEEK_END)


def check_frame(frame: Frame, canvas: Header) -> None:
    """Raise ``InvalidImageError`` if the frame is empty, or is not within the canvas."""
    right, bottom = frame.left + frame.width, frame.top + frame.height
    is_empty = min(frame.width, frame.height) < 1
    if is_empty or right > canvas.width or bottom > canvas.height:
        raise InvalidImageError(
            f"The animation of {canvas.width} x {canvas.height} pixels has a frame of "
            f"{frame.width} x {frame.height} at {frame.left}, {frame.top}, which is not within it. "
            "Re-encode it."
        )


def truncated(file: BinaryIO) -> TruncatedImageError:
    """Return the error for a file that ends too early."""
    return TruncatedImageError(
        f"The file ends after {file_size(file)} bytes, before the image does. Send the whole file."
    )


def too_many_pieces() -> InvalidImageError:
    """Return the error for a file with ``MAX_PIECES`` or more parts."""
    return InvalidImageError(
        f"The file has more than {MAX_PIECES} parts, unlike any real image. Re-encode it."
    )
