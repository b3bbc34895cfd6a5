"""The JPEG container (ITU-T T.81 annex B): segments, and entropy-coded data after each start of scan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import BinaryIO

from imageprocessor.core.container import (
    MAX_PIECES,
    Header,
    Part,
    Piece,
    metadata_piece,
    read_exactly,
    too_many_pieces,
    truncated,
)
from imageprocessor.errors import InvalidImageError

_SOI = b"\xff\xd8"
_EOI, _SOS, _DNL, _COM, _APP0, _APP1, _APP14 = 0xD9, 0xDA, 0xDC, 0xFE, 0xE0, 0xE1, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Huffman tables, arithmetic conditioning, quantisation tables, restart interval
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_NEEDED = _SOF | _TABLES | {_SOS, _EOI}
_KNOWN = _NEEDED | {_DNL, _COM} | frozenset(range(_APP0, 0xF0))

# Not a stuffed 0xFF, not a restart marker, which belongs to the data around it, and not a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_BLOCK_BYTES = 1 << 16
MAX_SCANS = 100
"""Encoders make some 20 at most; each costs a pass over the whole picture, however few bytes it has."""

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
        InvalidImageError: a segment is not one of a JPEG, or there is not exactly one frame before the first scan.
        TruncatedImageError: the file ends before the first scan.
    """
    frames = []
    for marker, start, end in _read_segments(file):
        if marker in {_SOS, _EOI}:
            break
        if marker in _SOF:
            frames.append((start, end))
    if len(frames) != 1 or frames[0][1] - frames[0][0] < 10:
        raise InvalidImageError("The JPEG has no proper frame header (SOF) before its picture data: save it anew.")
    file.seek(frames[0][0] + 5)  # marker, length, sample precision
    size = read_exactly(file, 4)
    return Header(width=int.from_bytes(size[2:]), height=int.from_bytes(size[:2]), frames=1)


def read_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the file in order: segments, entropy-coded data, and what follows the end of the picture.

    Raises:
        InvalidImageError: a segment is not one of a JPEG, or there are more than 100 scans.
        TruncatedImageError: the file ends before the end-of-image marker.
    """
    yield Piece(_SOI)
    view = memoryview(data)
    end = len(_SOI)
    scan_start = len(data)
    scans = 0
    for marker, start, end in _read_segments(BytesIO(data)):
        if scan_start < start:
            yield Piece(view[scan_start:start])
        yield _classify(marker, view[start:end])
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise InvalidImageError(f"The JPEG has more than {MAX_SCANS} scans: no real picture has. Save it anew.")
        scan_start = end if marker == _SOS else len(data)
    if end < len(data):
        yield metadata_piece("trailer", data[end:])


def exif_piece(exif: bytes) -> bytes:
    """Wrap an EXIF block as an APP1 segment."""
    return _segment(_APP1, b"Exif\0\0" + exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Put the parts of the profile together by their numbers: in front of each stand its own and how many there are."""
    return b"".join(part[2:] for part in sorted(payloads, key=lambda part: part[:1]))


def join(parts: Sequence[Part]) -> bytes:
    """Make a file of the parts, in their order."""
    return b"".join(parts)


def _read_segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start (of the marker) and end of every segment up to and with the end of the image.

    Bytes between segments that belong to no scan are passed over, as decoders do.
    """
    file.seek(0)
    if read_exactly(file, 2) != _SOI:
        raise InvalidImageError("The file does not start as a JPEG does: save it anew.")
    end = len(_SOI)
    for _ in range(MAX_PIECES):
        start = _find_marker(file, end)
        file.seek(start + 1)
        marker = file.read(1)[0]
        end = start + 2 if marker == _EOI else start + 2 + _read_length(file, marker)
        yield marker, start, end
        if marker == _EOI:
            return
    raise too_many_pieces()


def _find_marker(file: BinaryIO, position: int) -> int:
    """Return the offset of the next marker. Blocks double, so that the work is in proportion to the distance."""
    size = 512
    while True:
        file.seek(position)
        block = file.read(size)
        if found := _MARKER.search(block):
            return position + found.start()
        if len(block) < size:
            raise truncated(file)
        position += size - 1  # the marker's first byte may be the last of this block
        size = min(2 * size, _MAX_BLOCK_BYTES)


def _read_length(file: BinaryIO, marker: int) -> int:
    if marker not in _KNOWN:
        raise InvalidImageError(f"The JPEG has an unknown segment (marker 0xFF{marker:02X}): save it anew.")
    length = int.from_bytes(read_exactly(file, 2))
    if length < 2:
        raise InvalidImageError(f"The JPEG has a segment of length {length}: save it anew.")
    return length


def _classify(marker: int, segment: memoryview) -> Piece:
    if marker in _NEEDED:
        return Piece(segment)
    payload = bytes(segment[4:])
    if marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        without_thumbnail = payload[:12] + b"\0\0"
        return Piece(_segment(marker, without_thumbnail), kinds=("thumbnail",) if len(payload) > 14 else ())
    if marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
        return Piece(_segment(marker, payload[:12]))  # tells how the colours are coded
    for kind_marker, prefix, kind in _KINDS:
        if marker == kind_marker and payload.startswith(prefix):
            content = payload[len(prefix) :]
            return Piece(segment, ("icc",), content) if kind == "icc" else metadata_piece(kind, content)
    return metadata_piece("other")


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2) + payload
