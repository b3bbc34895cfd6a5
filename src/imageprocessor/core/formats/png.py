"""The PNG container (W3C PNG, third edition, with APNG): chunks, each with a checksum."""

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
_IMAGE = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"} | _ANIMATION
_COLOUR = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"mDCV", b"cLLI"}
_COLOUR_SPACE = {b"cICP", b"sRGB", b"gAMA", b"cHRM"}
_MAX_COLOUR_SPACE_BYTES = 32  # cHRM
_NEEDED = _IMAGE | _COLOUR | {b"pHYs"}
_KINDS = {b"caBX": "c2pa", b"tIME": "time"}
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
_MAX_TEXT_RATIO = 64  # limits the work for many small bombs; deflate allows a ratio of 1032


def read_header(file: BinaryIO) -> Header:
    """Return width and height from IHDR, and the number of frames from acTL before the first IDAT.

    Raises:
        InvalidImageError: The signature, IHDR or its checksum is wrong.
        TruncatedImageError: The file ends within IHDR.
    """
    chunks = _read_chunks(file)
    name, start, end = next(chunks)
    if end - start != 13:
        raise InvalidImageError(
            f"The PNG has an IHDR chunk of {end - start} bytes instead of 13. Re-encode it."
        )
    chunk = read_range(file, start - 8, end + 4)
    checksum = zlib.crc32(chunk[4:-4])
    _check_checksum(name, checksum, stored=chunk[-4:])
    width, height = struct.unpack_from(">II", chunk, 8)
    frames = _count_frames(file, chunks)
    return Header(width, height, frames)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: signature, chunks, and trailing bytes.

    Raises:
        InvalidImageError: A chunk's name is wrong, or the checksum of a chunk to keep is wrong.
        TruncatedImageError: The file ends before IEND does.
    """
    yield Piece(_SIGNATURE)
    end = 0
    for name, start, end in _read_chunks(file):
        if name in _COLOUR_SPACE and end - start <= _MAX_COLOUR_SPACE_BYTES:
            yield from _color_pieces(read_range(file, start - 8, end + 4))
        elif name in _NEEDED:
            yield from _needed_pieces(file, name, start, end)
        else:
            yield _classify(name, read_range(file, start - 8, end + 4))
    yield from trailer_pieces(file, end + 4)


def exif_piece(exif: bytes) -> bytes:
    """Return an EXIF block as an eXIf chunk."""
    return _chunk(b"eXIf", exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Return the first profile, at most 16 MiB of it, or empty bytes if it is damaged."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(payloads[0], _MAX_ICC_BYTES)
    return b""


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Return a file of the parts in order."""
    return write_parts(parts, size_bytes).getvalue()


def _read_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, payload start and payload end of every chunk up to and including IEND."""
    size = file_size(file)
    file.seek(0)
    if read_exactly(file, 8) != _SIGNATURE:
        raise InvalidImageError("The file does not start like a PNG. Re-encode it.")
    position = len(_SIGNATURE)
    for _ in range(MAX_PIECES):
        file.seek(position)
        length, name = struct.unpack(">I4s", read_exactly(file, 8))
        is_first = position == len(_SIGNATURE)
        if not name.isalpha() or is_first != (name == b"IHDR"):
            raise InvalidImageError(
                f"The PNG has an invalid or misplaced chunk {name!r} at byte {position}. "
                "Re-encode it."
            )
        start = position + 8
        end = start + length
        position = end + 4
        if position > size:
            raise truncated(file)
        yield name, start, end
        if name == b"IEND":
            return
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
    """Yield a chunk to keep, in blocks, and check its checksum at its end."""
    is_animation = name in _ANIMATION
    length_and_name = read_range(file, start - 8, start)
    yield Piece(length_and_name, is_animation=is_animation)
    checksum = zlib.crc32(name)
    for block in read_blocks(file, start, end):
        checksum = zlib.crc32(block, checksum)
        yield Piece(block, is_animation=is_animation)
    stored = read_range(file, end, end + 4)
    _check_checksum(name, checksum, stored)
    yield Piece(stored, is_animation=is_animation)


def _color_pieces(chunk: bytes) -> Iterator[Piece]:
    """Yield a chunk that declares a colour space, unless it is damaged."""
    name_and_payload = chunk[4:-4]
    if zlib.crc32(name_and_payload) == int.from_bytes(chunk[-4:]):
        yield Piece(chunk, color_chunk=name_and_payload)


def _classify(name: bytes, chunk: bytes) -> Piece:
    payload = chunk[8:-4]
    if name == b"iCCP":
        checksum = zlib.crc32(chunk[4:-4])
        _check_checksum(name, checksum, stored=chunk[-4:])
        profile_name, _, method_and_profile = payload.partition(b"\0")
        # The name is free text, so a neutral name of at most its length replaces it.
        plain_name = _ICC_NAME[: len(profile_name)]
        clean = _chunk(name, plain_name + b"\0" + method_and_profile)
        return Piece(clean, kinds=("icc",), payload=method_and_profile[1:])
    if name in _TEXT_CHUNKS:
        return _text_piece(name, payload)
    if name == b"eXIf":
        return metadata_piece("exif", payload)
    return metadata_piece(_KINDS.get(name, "other"))


def _check_checksum(name: bytes, checksum: int, stored: bytes) -> None:
    if checksum != int.from_bytes(stored):
        raise InvalidImageError(
            f"The PNG has a damaged {name.decode()} chunk (wrong checksum). Send the file again."
        )


def _text_piece(name: bytes, payload: bytes) -> Piece:
    """Return a text chunk with the kind of metadata that its keyword names.

    Its payload is empty, because decoders do not read EXIF from text chunks.
    """
    keyword, _, rest = payload.partition(b"\0")
    kind = _TEXT_KINDS.get(keyword, "comment")
    content = b""
    if kind in {"exif", "xmp"}:
        content = _read_text(name, rest)
    if kind == "exif":
        # The format of ImageMagick: a name, a length and hexadecimal digits on separate lines
        digits = b"".join(content.split(b"\n", 3)[3:])
        content = b""
        with suppress(ValueError):
            content = bytes.fromhex(digits.decode("ascii")).removeprefix(b"Exif\0\0")
    return Piece(kinds=metadata_piece(kind, content).kinds)


def _read_text(name: bytes, rest: bytes) -> bytes:
    """Return the text after a keyword; a compressed one only up to a plausible length."""
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        text = rest[1:]  # after the compression method
    else:
        # After two flags, a language and a translated keyword
        text = rest[2:].split(b"\0", 2)[-1]
        is_compressed = rest[:1] == b"\1"
        if not is_compressed:
            return text
    most_bytes = 1 + _MAX_TEXT_RATIO * len(text)
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, most_bytes)
    return b""


def _chunk(name: bytes, payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))
    checksum = zlib.crc32(payload, zlib.crc32(name))
    return length + name + payload + checksum.to_bytes(4)
