"""The JPEG container (ITU-T T.81 annex B): segments, with coded data after each start of scan."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

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
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.errors import InputError, InvalidImageError

if TYPE_CHECKING:
    from PIL import Image

_SOI = b"\xff\xd8"
_CODED_DATA = 0  # used in place of a marker
_TEM, _EOI, _SOS, _DNL, _COM = 0x01, 0xD9, 0xDA, 0xDC, 0xFE
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_WITHOUT_LENGTH = {_TEM, _EOI}
SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LAST_HUFFMAN_SOF = 0xC7
# Huffman tables, arithmetic conditioning, quantisation tables, restart interval
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_NEEDED = SOF_MARKERS | _TABLES | {_SOS, _EOI}
_KNOWN = _NEEDED | {_DNL, _COM} | frozenset(range(_APP0, 0xF0))

# Excludes a stuffed 0xFF, a fill byte, and a restart marker, which is part of the coded data.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MIN_BLOCK_BYTES = 512
MAX_SCANS = 100
"""Encoders make about 20 at most. Each scan, however short, costs a pass over the whole image."""

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
    """Return width and height from the start of frame; the number of frames is always 1.

    Raises:
        InvalidImageError: A segment is not valid in a JPEG, or there is not exactly one frame
            before the first scan.
        TruncatedImageError: The file ends before the first scan.
    """
    frames = []
    for marker, segment in _read_parts(file):
        if marker in {_SOS, _EOI}:
            break
        if marker in SOF_MARKERS:
            frames.append(segment)
    if len(frames) != 1 or len(frames[0]) < 10:
        raise InvalidImageError(
            "The JPEG has no valid frame header (SOF) before its image data. Re-encode it."
        )
    # After the marker, the length and the sample precision
    height, width = struct.unpack_from(">HH", frames[0], 5)
    return Header(width, height, frames=1)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: segments, coded data in blocks, and trailing bytes.

    If the end-of-image marker is missing, it is added behind the last valid segment or coded data;
    only a decoder can say whether the image is whole.

    Raises:
        InvalidImageError: A segment before the first scan is not valid in a JPEG, or there are more
            than 100 scans.
        TruncatedImageError: The file ends before the first scan does.
    """
    yield Piece(_SOI)
    position = len(_SOI)
    scans = 0
    in_scan = False
    marker = _CODED_DATA
    for marker, part in _read_parts(file):
        position += len(part)
        if marker == _CODED_DATA:
            if in_scan:
                yield Piece(part, is_coded=True)
            continue
        if marker == _TEM:
            continue
        yield _classify(marker, part)
        in_scan = marker == _SOS
        if in_scan:
            scans += 1
            yield Piece(is_coded=True)  # even if no data follows
        if scans > MAX_SCANS:
            raise InvalidImageError(
                f"The JPEG has more than {MAX_SCANS} scans, unlike any real image. Re-encode it."
            )
    if marker != _EOI:
        yield Piece(bytes((0xFF, _EOI)), is_end_added=True)
    yield from trailer_pieces(file, position)


def exif_piece(exif: bytes) -> bytes:
    """Return an EXIF block as an APP1 segment."""
    return _segment(_APP1, b"Exif\0\0" + exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Return the profile, whose parts start with their number and the number of parts."""
    in_order = sorted(payloads, key=lambda part: part[:1])
    return b"".join(part[2:] for part in in_order)


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Return a file of the parts in order."""
    return write_parts(parts, size_bytes).getvalue()


def is_arithmetic(data: bytes) -> bool:
    """Return whether a JPEG has arithmetic coding, which browsers cannot decode."""
    for marker, _ in _read_parts(BytesIO(data)):
        if marker in SOF_MARKERS:
            return marker > _LAST_HUFFMAN_SOF
    return False


def encode(image: Image.Image, encoding: Encoding) -> bytes:
    """Return an RGB or RGBA image as a progressive JPEG file, on white where it is transparent."""
    from PIL import Image, JpegImagePlugin  # noqa: F401, PLC0415 - see ``webp.encode``

    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas.convert("RGB")
    options = {"quality": encoding.quality, "comment": None}  # not that of ``image.info``
    file = BytesIO()
    try:
        image.save(file, "JPEG", progressive=True, optimize=True, **options)
    except OSError:  # at qualities from 91 to 94, Pillow's buffer is too small for pure noise
        file = BytesIO()
        image.save(file, "JPEG", **options)
    return file.getvalue()


def _read_parts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and bytes of every segment up to and including the end of the image.

    After a start of scan, what is no segment, or is not whole, also is the end of the image.

    Coded data is yielded in blocks, with ``_CODED_DATA`` as the marker; outside scans, decoders
    skip it. The block size doubles, so that the work is proportional to the data.
    """
    if read_range(file, 0, len(_SOI)) != _SOI:
        raise InvalidImageError("The file does not start like a JPEG. Re-encode it.")
    position = len(_SOI)
    block_size = _MIN_BLOCK_BYTES
    segments = 0
    has_scan = False
    while segments < MAX_PIECES:
        block = _read_block(file, position, block_size)
        if block and not _MARKER.match(block):
            yield _CODED_DATA, block
            position += len(block)
            block_size = min(2 * block_size, BLOCK_BYTES)
            continue
        try:
            marker, length = _read_marker(file, block)
        except InputError:
            if has_scan:
                return
            raise
        missing = max(0, length - len(block))
        segment = block[:length] + file.read(missing)
        is_whole = len(segment) == length
        if has_scan and not is_whole:
            return
        yield marker, segment  # even if truncated: it may contain metadata
        if not is_whole:
            raise truncated(file)
        if marker == _EOI:
            return
        has_scan |= marker == _SOS
        position += len(segment)
        block_size = _MIN_BLOCK_BYTES
        segments += 1
    raise too_many_pieces()


def _read_block(file: BinaryIO, position: int, size: int) -> bytes:
    """Return the data before the next marker, or the whole block if it starts with a marker.

    At the end of the file, it is empty.
    """
    file.seek(position)
    block = file.read(size)
    found = _MARKER.search(block)
    if found:
        return block[: found.start()] or block
    if len(block) < size:
        return block
    return block.removesuffix(b"\xff")  # it may be the first byte of a marker


def _read_marker(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """Return the marker of the segment that starts with *head*, and its length with the marker."""
    if len(head) < 2:
        raise truncated(file)
    marker = head[1]
    if marker in _WITHOUT_LENGTH:
        return marker, 2
    if marker not in _KNOWN:
        raise InvalidImageError(
            f"The JPEG has an unknown segment (marker 0xFF{marker:02X}). Re-encode it."
        )
    if len(head) < 4:
        raise truncated(file)
    length = int.from_bytes(head[2:4])
    if length < 2:
        raise InvalidImageError(f"The JPEG has a segment of length {length}. Re-encode it.")
    return marker, 2 + length


def _classify(marker: int, segment: bytes) -> Piece:
    if marker in _NEEDED:
        return Piece(segment)
    payload = segment[4:]
    if marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        without_thumbnail = payload[:12] + b"\0\0"
        kinds = ("thumbnail",) if len(payload) > 14 else ()
        return Piece(_segment(marker, without_thumbnail), kinds)
    if marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
        return Piece(_segment(marker, payload[:12]))  # how the colours are coded
    for kind_marker, prefix, kind in _KINDS:
        if marker == kind_marker and payload.startswith(prefix):
            content = payload.removeprefix(prefix)
            if kind == "icc":
                return Piece(segment, ("icc",), content)
            return metadata_piece(kind, content)
    return metadata_piece("other")


def _segment(marker: int, payload: bytes) -> bytes:
    length = len(payload) + 2
    return bytes((0xFF, marker)) + length.to_bytes(2) + payload
