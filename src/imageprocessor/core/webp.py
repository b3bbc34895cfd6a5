"""The WebP container (RFC 9649): a RIFF of chunks, each padded to an even length."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from imageprocessor.core.container import (
    MAX_PIECES,
    Header,
    Piece,
    file_size,
    metadata_piece,
    read_exactly,
    read_range,
    too_many_pieces,
    truncated,
)
from imageprocessor.errors import InvalidImageError, TruncatedImageError

_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04
_FIRST_CHUNK = 12
_PICTURES = {b"VP8 ", b"VP8L"}
_NEEDED = _PICTURES | {b"ALPH"}
_FIXED_LENGTHS = {b"VP8X": 10, b"ANIM": 6}
_KINDS = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}


def read_header(file: BinaryIO) -> Header:
    """Read the size of the canvas, and count the ANMF chunks that are there.

    Raises:
        InvalidImageError: the first chunk is not a picture or a VP8X header.
        TruncatedImageError: the file ends within that header.
    """
    file.seek(0)
    head = file.read(30)
    if len(head) < (25 if head[12:16] == b"VP8L" else 30):
        raise truncated(file)
    width, height = _read_canvas(head)
    return Header(width, height, _count_frames(file) if head[12:16] == b"VP8X" else 1)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: RIFF header, chunks, and what follows the RIFF.

    Raises:
        InvalidImageError: a chunk does not fit in what contains it.
        TruncatedImageError: the file ends before the RIFF does.
    """
    yield Piece(b"RIFF\0\0\0\0WEBP")
    riff_end = _read_riff_end(file)
    flags = 0
    for name, start, end in _read_chunks(file, _FIRST_CHUNK, riff_end):
        if name == b"VP8X":
            flags = read_range(file, start, start + 1)[0]
        yield _classify(file, name, start, end, has_exif=bool(flags & _EXIF_FLAG))
    file.seek(riff_end)
    if trailer := file.read():
        yield metadata_piece("trailer", trailer)


def exif_piece(exif: bytes) -> bytes:
    """Wrap an EXIF block as an EXIF chunk."""
    return _chunk(b"EXIF", exif)


def decode_icc(payload: bytes) -> bytes:
    """Return the profile: it is stored as it is."""
    return payload


def join(parts: Sequence[bytes]) -> bytes:
    """Make a file of the parts, in their order; the RIFF's length and the flags of VP8X tell what is in it."""
    data = bytearray(b"".join(parts))
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    if data[12:16] == b"VP8X":
        data[20] &= ~(_EXIF_FLAG | _XMP_FLAG)
        if any(part.startswith(b"EXIF") for part in parts):
            data[20] |= _EXIF_FLAG
    return bytes(data)


def _read_canvas(head: bytes) -> tuple[int, int]:
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF  # the upper two bits ask the player to scale
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise InvalidImageError(f"The WebP starts with {head[12:16]!r}, which is no picture header: save it anew.")


def _count_frames(file: BinaryIO) -> int:
    frames = 0
    with suppress(TruncatedImageError):
        for name, _, _ in _read_chunks(file, _FIRST_CHUNK, _read_riff_end(file)):
            frames += name == b"ANMF"
    return max(1, frames)


def _read_riff_end(file: BinaryIO) -> int:
    file.seek(0)
    magic, length, form = struct.unpack("<4sI4s", read_exactly(file, 12))
    if (magic, form) != (b"RIFF", b"WEBP"):
        raise InvalidImageError("The file does not start as a WebP does: save it anew.")
    return 8 + int(length)


def _read_chunks(file: BinaryIO, position: int, region_end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end (of the payload) of the chunks from ``position`` to ``region_end``."""
    size = file_size(file)
    for _ in range(MAX_PIECES):
        if position >= region_end:
            return
        file.seek(position)
        name, length = struct.unpack("<4sI", read_exactly(file, 8))
        start, end = position + 8, position + 8 + length
        if end > region_end:
            raise InvalidImageError(f"The WebP has a chunk {name!r} that is longer than the file says: save it anew.")
        if end > size:
            raise truncated(file)
        yield name, start, end
        position = end + length % 2
    raise too_many_pieces()


def _classify(file: BinaryIO, name: bytes, start: int, end: int, *, has_exif: bool) -> Piece:
    if name == b"ANMF":
        return _frame_piece(file, start, end)
    if name in _FIXED_LENGTHS:
        return Piece(_chunk(name, _read_fixed(file, start, end, _FIXED_LENGTHS[name])))
    payload = read_range(file, start, end)
    if name in _NEEDED:
        return Piece(_chunk(name, payload))
    if name == b"ICCP":
        return Piece(_chunk(name, payload), ("icc",), payload)
    if name == b"EXIF":
        # Decoders do not look for EXIF unless VP8X announces it.
        return metadata_piece("exif", payload.removeprefix(b"Exif\0\0") if has_exif else b"")
    return metadata_piece(_KINDS.get(name, "other"), payload if name == b"XMP " else b"")


def _frame_piece(file: BinaryIO, start: int, end: int) -> Piece:
    """Keep an animation frame's place and picture (its first), drop what else is inside."""
    frame = [_read_fixed(file, start, end, 16)]
    has_picture = has_other = False
    for name, chunk_start, chunk_end in _read_chunks(file, start + 16, end):
        if name in _NEEDED and not has_picture:
            frame.append(_chunk(name, read_range(file, chunk_start, chunk_end)))
            has_picture = name in _PICTURES
        else:
            has_other = True
    return Piece(_chunk(b"ANMF", b"".join(frame)), ("other",) if has_other else ())


def _read_fixed(file: BinaryIO, start: int, end: int, length: int) -> bytes:
    if end - start < length:
        raise InvalidImageError(f"The WebP has a chunk of {end - start} bytes instead of {length}: save it anew.")
    return read_range(file, start, start + length)


def _chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack("<4sI", name, len(payload)) + payload + bytes(len(payload) % 2)
