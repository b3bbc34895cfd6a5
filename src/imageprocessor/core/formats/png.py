"""The PNG container (W3C PNG, third edition, with APNG).

A signature, then chunks with a checksum each.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from imageprocessor.core.formats.container import (
    MAX_PIECES,
    Header,
    Piece,
    file_size,
    metadata_piece,
    read_blocks,
    read_exactly,
    read_range,
    too_many_pieces,
    trailer_pieces,
    truncated,
    write_parts,
)
from imageprocessor.errors import InvalidImageError, TruncatedImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_PICTURE = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"} | _ANIMATION
_COLOUR = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"mDCV", b"cLLI"}
_NEEDED = _PICTURE | _COLOUR | {b"pHYs"}
_KINDS = {b"eXIf": "exif", b"caBX": "c2pa", b"tIME": "time"}
_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
_TEXT_KINDS = {
    b"XML:com.adobe.xmp": "xmp",
    b"Raw profile type xmp": "xmp",
    b"Raw profile type exif": "exif",
    b"Raw profile type APP1": "exif",
    b"Raw profile type iptc": "iptc",
}
_ICC_NAME = b"ICC profile"
_MAX_ICC_BYTES = 16 << 20
_MAX_TEXT_RATIO = 64  # bounds the work for many small bombs; deflate itself allows 1032


def read_header(file: BinaryIO) -> Header:
    """Read width and height from IHDR and the number of frames from acTL.

    Which stands before the first IDAT.

    Raises:
        InvalidImageError: the signature, IHDR or its checksum is wrong.
        TruncatedImageError: the file ends within IHDR.
    """
    chunks = _read_chunks(file)
    name, start, end = next(chunks)
    if end - start != 13:
        raise InvalidImageError(
            f"The PNG has an IHDR chunk of {end - start} bytes instead of 13: save it anew."
        )
    header = read_range(file, start - 8, end + 4)
    _check(name, zlib.crc32(header[4:-4]), header[-4:])
    width, height = struct.unpack_from(">II", header, 8)
    return Header(width, height, _count_frames(file, chunks))


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: signature, chunks, and what follows IEND.

    Raises:
        InvalidImageError: a chunk's name, or the checksum of one that is kept, is wrong.
        TruncatedImageError: the file ends before IEND does.
    """
    yield Piece(_SIGNATURE)
    end = 0
    for name, start, end in _read_chunks(file):
        if name in _NEEDED:
            yield from _needed_pieces(file, name, start, end)
        else:
            yield _classify(name, read_range(file, start - 8, end + 4))
    yield from trailer_pieces(file, end + 4)


def exif_piece(exif: bytes) -> bytes:
    """Wrap an EXIF block as an eXIf chunk."""
    return _chunk(b"eXIf", exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Inflate the first profile, up to 16 MiB of it; a damaged one is empty."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(payloads[0], _MAX_ICC_BYTES)
    return b""


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Make a file of the parts, in their order."""
    return write_parts(parts, size_bytes).getvalue()


def _read_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end (of the payload) of every chunk up to and with IEND."""
    size = file_size(file)
    file.seek(0)
    if read_exactly(file, 8) != _SIGNATURE:
        raise InvalidImageError("The file does not start as a PNG does: save it anew.")
    position = len(_SIGNATURE)
    for _ in range(MAX_PIECES):
        file.seek(position)
        length, name = struct.unpack(">I4s", read_exactly(file, 8))
        if not name.isalpha() or (name == b"IHDR") != (position == len(_SIGNATURE)):
            raise InvalidImageError(
                f"The PNG has a chunk {name!r} at byte {position}, where none can be: save it anew."
            )
        start, end = position + 8, position + 8 + length
        if end + 4 > size:
            raise truncated(file)
        yield name, start, end
        if name == b"IEND":
            return
        position = end + 4
    raise too_many_pieces()


def _count_frames(file: BinaryIO, chunks: Iterator[tuple[bytes, int, int]]) -> int:
    with suppress(TruncatedImageError):
        for name, start, end in chunks:
            if name == b"acTL" and end - start == 8:
                file.seek(start)
                frames = int.from_bytes(file.read(4))
                return frames if 0 < frames < 1 << 31 else 1
            if name == b"IDAT":
                break
    return 1


def _needed_pieces(file: BinaryIO, name: bytes, start: int, end: int) -> Iterator[Piece]:
    """Keep a chunk, in blocks; that it is damaged shows at its end."""
    is_animation = name in _ANIMATION
    checksum, unchecked = 0, 4  # the chunk's length
    for block in read_blocks(file, start - 8, end):
        checksum = zlib.crc32(memoryview(block)[unchecked:], checksum)
        unchecked = 0
        yield Piece(block, is_animation=is_animation)
    told = read_range(file, end, end + 4)
    _check(name, checksum, told)
    yield Piece(told, is_animation=is_animation)


def _classify(name: bytes, chunk: bytes) -> Piece:
    payload = chunk[8:-4]
    if name == b"iCCP":
        _check(name, zlib.crc32(chunk[4:-4]), chunk[-4:])
        return _icc_piece(payload)
    if name in _TEXT_CHUNKS:
        return _text_piece(name, payload)
    return metadata_piece(_KINDS.get(name, "other"), payload if name == b"eXIf" else b"")


def _check(name: bytes, checksum: int, told: bytes) -> None:
    if checksum != int.from_bytes(told):
        raise InvalidImageError(
            f"The PNG has a damaged {name.decode()} chunk (wrong checksum): send it again."
        )


def _text_piece(name: bytes, payload: bytes) -> Piece:
    """Tell what a text is by its keyword.

    Decoders take nothing out of it, so nobody is handed its content.
    """
    keyword, _, rest = payload.partition(b"\0")
    kind = _TEXT_KINDS.get(keyword, "comment")
    text = _read_text(name, rest) if kind in {"exif", "xmp"} else b""
    return Piece(
        kinds=metadata_piece(kind, _read_raw_profile(text) if kind == "exif" else text).kinds
    )


def _read_text(name: bytes, rest: bytes) -> bytes:
    """Return what follows the keyword; a compressed text up to the length that honest ones have."""
    if name == b"tEXt":
        return rest
    text = (
        rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    )  # past method, or flags and languages
    if name == b"iTXt" and rest[:1] != b"\1":
        return text
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, 1 + _MAX_TEXT_RATIO * len(text))
    return b""


def _read_raw_profile(text: bytes) -> bytes:
    """Read what ImageMagick writes.

    A name, a length and hexadecimal digits, on lines of their own.
    """
    digits = b"".join(text.split(b"\n", 3)[3:])
    with suppress(ValueError):
        return bytes.fromhex(digits.decode("ascii")).removeprefix(b"Exif\0\0")
    return b""


def _icc_piece(payload: bytes) -> Piece:
    """Keep the profile; its name is free text, so it becomes a plain one that is not longer."""
    name, _, rest = payload.partition(b"\0")
    return Piece(_chunk(b"iCCP", _ICC_NAME[: len(name)] + b"\0" + rest), ("icc",), rest[1:])


def _chunk(name: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(name))
    return struct.pack(">I4s", len(payload), name) + payload + checksum.to_bytes(4)
