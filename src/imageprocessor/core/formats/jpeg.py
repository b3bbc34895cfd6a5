"""The JPEG container (ITU-T T.81 annex B).

Segments, and entropy-coded data after each start of scan.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import BinaryIO

from imageprocessor.core.formats.container import (
    BLOCK_BYTES,
    MAX_PIECES,
    Header,
    Piece,
    metadata_piece,
    read_range,
    too_many_pieces,
    trailer_pieces,
    truncated,
    write_parts,
)
from imageprocessor.errors import InvalidImageError

_SOI = b"\xff\xd8"
_EOI, _SOS, _DNL, _COM, _APP0, _APP1, _APP14 = 0xD9, 0xDA, 0xDC, 0xFE, 0xE0, 0xE1, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Huffman tables, arithmetic conditioning, quantisation tables, restart interval
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_NEEDED = _SOF | _TABLES | {_SOS, _EOI}
_KNOWN = _NEEDED | {_DNL, _COM} | frozenset(range(_APP0, 0xF0))

# Not a stuffed 0xFF, not a restart marker, which belongs to the data around it, and not a fill
# byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MIN_BLOCK_BYTES = 512
MAX_SCANS = 100
"""Encoders make some 20 at most.

Each costs a pass over the whole picture, however few bytes it has.
"""

_KINDS = (
    (_APP0, b"JFXX\0", "thumbnail"),
    (_APP1, b"Exif\0\0", "exif"),
    (_APP1, b"http://ns.adobe.com/xap/1.0/\0", "xmp"),
    (_APP1, b"http://ns.adobe.com/xmp/extension/\0", "xmp"),
    (0xE2, b"ICC_PROFILE\0", "icc"),
    (0xE2, b"MPF\0", "mpf"),
    (0xE2, b"urn:iso:std:iso:ts:21496:-1", "gain_map"),
    (0xEB, b"JP", "c2pa"),
    (0xED, b"Photoshop 3.0\0", "iptc"),
    (_COM, b"", "comment"),
)


def read_header(file: BinaryIO) -> Header:
    """Read width and height from the start of frame; there is always one frame.

    Raises:
        InvalidImageError: a segment is not one of a JPEG, or there is not exactly one frame before
            the first scan.
        TruncatedImageError: the file ends before the first scan.
    """
    before_scan = takewhile(lambda part: part[0] not in {_SOS, _EOI}, _read_parts(file))
    frames = [segment for marker, segment in before_scan if marker in _SOF]
    if len(frames) != 1 or len(frames[0]) < 10:
        raise InvalidImageError(
            "The JPEG has no proper frame header (SOF) before its picture data: save it anew."
        )
    height, width = struct.unpack_from(
        ">HH", frames[0], 5
    )  # behind marker, length, sample precision
    return Header(width, height, frames=1)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order.

    Segments, entropy-coded data in blocks, and what follows the end of the picture.

    Raises:
        InvalidImageError: a segment is not one of a JPEG, or there are more than 100 scans.
        TruncatedImageError: the file ends before the end-of-image marker.
    """
    yield Piece(_SOI)
    position, scans, in_scan = len(_SOI), 0, False
    for marker, part in _read_parts(file):
        position += len(part)
        if marker:
            yield _classify(marker, part)
            in_scan = marker == _SOS
            scans += in_scan
            if scans > MAX_SCANS:
                raise InvalidImageError(
                    f"The JPEG has more than {MAX_SCANS} scans: no real picture has. Save it anew."
                )
        elif in_scan:
            yield Piece(part)
    yield from trailer_pieces(file, position)


def exif_piece(exif: bytes) -> bytes:
    """Wrap an EXIF block as an APP1 segment."""
    return _segment(_APP1, b"Exif\0\0" + exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Put the parts of the profile together by their numbers.

    In front of each stand its own and how many there are.
    """
    return b"".join(part[2:] for part in sorted(payloads, key=lambda part: part[:1]))


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Make a file of the parts, in their order."""
    return write_parts(parts, size_bytes).getvalue()


def _read_parts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and bytes of every segment up to and with the end of the image.

    For what is between, 0 and blocks.

    That is the data of the scan before it; where none is, decoders pass it over. Blocks double, so
    that the work is in proportion to what they hold.
    """
    if read_range(file, 0, len(_SOI)) != _SOI:
        raise InvalidImageError("The file does not start as a JPEG does: save it anew.")
    position, size, segments = len(_SOI), _MIN_BLOCK_BYTES, 0
    while segments < MAX_PIECES:
        block = _read_block(file, position, size)
        if not _MARKER.match(block):
            yield 0, block
            position += len(block)
            size = min(2 * size, BLOCK_BYTES)
            continue
        length = _read_length(file, block)
        segment = block[:length] + file.read(max(0, length - len(block)))
        yield block[1], segment  # also if it is cut: what is there may tell something
        if len(segment) < length:
            raise truncated(file)
        if block[1] == _EOI:
            return
        position, size, segments = position + length, _MIN_BLOCK_BYTES, segments + 1
    raise too_many_pieces()


def _read_block(file: BinaryIO, position: int, size: int) -> bytes:
    """Read what is before the next marker, or from the marker on if that is at ``position``."""
    file.seek(position)
    block = file.read(size)
    if found := _MARKER.search(block):
        return block[: found.start()] or block
    if len(block) < size:
        raise truncated(file)
    return block.removesuffix(b"\xff")  # which may be the first byte of a marker


def _read_length(file: BinaryIO, head: bytes) -> int:
    """Tell how long the segment is, with its marker."""
    if head[1] == _EOI:
        return 2
    if head[1] not in _KNOWN:
        raise InvalidImageError(
            f"The JPEG has an unknown segment (marker 0xFF{head[1]:02X}): save it anew."
        )
    if len(head) < 4:
        raise truncated(file)
    length = int.from_bytes(head[2:4])
    if length < 2:
        raise InvalidImageError(f"The JPEG has a segment of length {length}: save it anew.")
    return 2 + length


def _classify(marker: int, segment: bytes) -> Piece:
    if marker in _NEEDED:
        return Piece(segment)
    payload = segment[4:]
    if marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        without_thumbnail = payload[:12] + b"\0\0"
        return Piece(
            _segment(marker, without_thumbnail), kinds=("thumbnail",) if len(payload) > 14 else ()
        )
    if marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
        return Piece(_segment(marker, payload[:12]))  # tells how the colours are coded
    for kind_marker, prefix, kind in _KINDS:
        if marker == kind_marker and payload.startswith(prefix):
            content = payload[len(prefix) :]
            return (
                Piece(segment, ("icc",), content)
                if kind == "icc"
                else metadata_piece(kind, content)
            )
    return metadata_piece("other")


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2) + payload
