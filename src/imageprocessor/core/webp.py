"""The WebP container (RFC 9649): a RIFF of chunks, each padded to an even length."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

from imageprocessor.core.container import (
    MAX_PIECES,
    Header,
    Part,
    Piece,
    file_size,
    metadata_piece,
    read_exactly,
    too_many_pieces,
    truncated,
)
from imageprocessor.errors import InvalidImageError, TruncatedImageError

_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04
_FIRST_CHUNK = 12
_FRAME_HEADER_BYTES = 16
_NEEDED = {b"VP8 ", b"VP8L", b"ALPH"}
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
    needed = 5 if head[12:16] == b"VP8L" else 10
    if len(head) < 20 + needed:
        raise truncated(file)
    if int.from_bytes(head[16:20], "little") < needed:
        raise InvalidImageError("The WebP has a picture header that is too short: save it anew.")
    width, height = _read_canvas(head)
    return Header(width, height, _count_frames(file) if head[12:16] == b"VP8X" else 1)


def read_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the file in order: chunks, and what follows the RIFF.

    Raises:
        InvalidImageError: a chunk does not fit in what contains it.
        TruncatedImageError: the file ends before the RIFF does.
    """
    file, view = BytesIO(data), memoryview(data)
    riff_end = _read_riff_end(file)
    has_exif = data[12:16] == b"VP8X" and bool(int.from_bytes(data[20:21]) & _EXIF_FLAG)
    for name, start, end in _read_chunks(file, _FIRST_CHUNK, riff_end):
        if name == b"ANMF":
            yield _frame_piece(file, view, start, end)
        else:
            yield _classify(name, view[start:end], view[start - 8 : end + end % 2], has_exif=has_exif)
    if trailer := data[riff_end:]:
        yield metadata_piece("trailer", trailer)


def exif_piece(exif: bytes) -> bytes:
    """Wrap an EXIF block as an EXIF chunk."""
    return _chunk(b"EXIF", exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Return the first profile: it is stored as it is."""
    return payloads[0]


def join(parts: Sequence[Part]) -> bytes:
    """Make a file of the parts, in their order; the RIFF's length and the flags of VP8X tell what is in it."""
    exif_flag = _EXIF_FLAG if any(part[:4] == b"EXIF" for part in parts) else 0
    chunks = [_set_flag(part, exif_flag) if part[:4] == b"VP8X" else part for part in parts]
    length = 4 + sum(map(len, chunks))
    return b"".join([b"RIFF", length.to_bytes(4, "little"), b"WEBP", *chunks])


def _set_flag(vp8x: Part, exif_flag: int) -> bytes:
    flags = vp8x[8] & ~(_EXIF_FLAG | _XMP_FLAG) | exif_flag
    return b"".join([vp8x[:8], bytes([flags]), vp8x[9:]])


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


def _classify(name: bytes, content: memoryview, chunk: memoryview, *, has_exif: bool) -> Piece:
    if name in _NEEDED:
        return Piece(chunk)
    if name in _FIXED_LENGTHS:
        return Piece(_chunk(name, _head(content, _FIXED_LENGTHS[name])))
    payload = bytes(content)
    if name == b"ICCP":
        return Piece(chunk, ("icc",), payload)
    if name == b"EXIF":
        # Decoders do not look for EXIF unless VP8X announces it.
        piece = metadata_piece("exif", payload.removeprefix(b"Exif\0\0"))
        return piece if has_exif else replace(piece, payload=b"")
    return metadata_piece(_KINDS.get(name, "other"), payload)


def _frame_piece(file: BinaryIO, view: memoryview, start: int, end: int) -> Piece:
    """Keep an animation frame's place and picture, drop what else is inside."""
    frame: list[Part] = [_head(view[start:end], _FRAME_HEADER_BYTES)]
    has_other = False
    for name, inner_start, inner_end in _read_chunks(file, start + _FRAME_HEADER_BYTES, end):
        if name in _NEEDED:
            frame.append(view[inner_start - 8 : inner_end + inner_end % 2])
        else:
            has_other = True
    return Piece(_chunk(b"ANMF", b"".join(frame)), ("other",) if has_other else ())


def _head(payload: memoryview, length: int) -> memoryview:
    if len(payload) < length:
        raise InvalidImageError(f"The WebP has a chunk of {len(payload)} bytes instead of {length}: save it anew.")
    return payload[:length]


def _chunk(name: bytes, payload: Part) -> bytes:
    return b"".join([name, len(payload).to_bytes(4, "little"), payload, bytes(len(payload) % 2)])
