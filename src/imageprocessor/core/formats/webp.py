"""The WebP container (RFC 9649): a RIFF file of chunks, each padded to an even length."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from imageprocessor.core.formats.container import (
    MAX_PIECES,
    Coding,
    Frame,
    Frames,
    Header,
    Piece,
    check_frame,
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
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.errors import InvalidImageError, TruncatedImageError

if TYPE_CHECKING:
    from PIL import Image

_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04
_FIRST_CHUNK = 12
_FRAME_HEADER_BYTES = 16
_NEEDED = {b"VP8 ", b"VP8L", b"ALPH"}
_FIXED_LENGTHS = {b"VP8X": 10, b"ANIM": 6}
_ENCODER_OUT_OF_MEMORY = {"encoding error 1", "encoding error 2"}  # libwebp's encode.h
_ALPHA_FLAG = 0x10
_CLEARS_FLAG, _REPLACES_FLAG = 0x01, 0x02
_LOSSLESS_EFFORT = 80
"""What libwebp calls the quality of a lossless file; below 80, files are larger, but not faster."""

_WASTE = 1.1
"""Of lossless files by other encoders, or with less effort."""

_SHORTER_BY = (4, 8)
"""The decoder fails without the last 4 bytes of what encoders write, but may not need 3 of them."""

_KINDS = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}


def read_header(file: BinaryIO) -> Header:
    """Return the size of the canvas, and the number of complete ANMF chunks.

    Raises:
        InvalidImageError: The first chunk is neither an image nor a VP8X header.
        TruncatedImageError: The file ends within that header.
    """
    file.seek(0)
    head = file.read(30)
    needed = 5 if head[12:16] == b"VP8L" else 10
    if len(head) < 20 + needed:
        raise truncated(file)
    if int.from_bytes(head[16:20], "little") < needed:
        raise InvalidImageError("The WebP has an image header that is too short. Re-encode it.")
    width, height = _read_canvas(head)
    is_extended = head[12:16] == b"VP8X"
    frames = _count_frames(file) if is_extended else 1
    return Header(width, height, frames)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: chunks, and trailing bytes.

    Raises:
        InvalidImageError: A chunk does not fit into the RIFF or the frame that contains it, or is
            too short for its fixed fields.
        TruncatedImageError: The file ends before the RIFF does.
    """
    riff_end = _read_riff_end(file)
    has_exif = _announces_exif(file)
    size = file_size(file)
    for name, start, end in _read_chunks(file, _FIRST_CHUNK, riff_end):
        if name == b"ANMF":
            yield from _frame_pieces(file, start, end, size)
        elif name in _NEEDED:
            yield from _block_pieces(file, start - 8, _padded(end, size))
        else:
            chunk = read_range(file, start - 8, _padded(end, size))
            payload = chunk[8 : 8 + end - start]
            yield _classify(name, payload, chunk, has_exif=has_exif)
    yield from trailer_pieces(file, riff_end)


def read_durations(file: BinaryIO) -> Iterator[float]:
    """Yield the milliseconds of each complete ANMF chunk."""
    with suppress(TruncatedImageError):
        for name, start, end in _read_chunks(file, _FIRST_CHUNK, _read_riff_end(file)):
            if name == b"ANMF" and end - start >= _FRAME_HEADER_BYTES:
                yield int.from_bytes(read_range(file, start + 12, start + 15), "little")


def read_frames(file: BinaryIO) -> Frames:
    """Return the frames of an animation; a still image has none.

    Raises:
        TruncatedImageError: The file ends before the last frame does.
        InvalidImageError: A frame is not within the canvas, or has no image.
    """
    canvas = read_header(file)
    plays = 0
    frames = []
    for name, start, end in _read_chunks(file, _FIRST_CHUNK, _read_riff_end(file)):
        if name == b"ANIM":
            plays = int.from_bytes(read_range(file, start, end)[4:6], "little")
        if name == b"ANMF":
            frame = _read_frame(file, start, end)
            check_frame(frame, canvas)
            frames.append(frame)
    return Frames(frames, plays)


def exif_piece(exif: bytes) -> bytes:
    """Return an EXIF block as an EXIF chunk."""
    return _chunk(b"EXIF", exif)


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Return the first profile, which is stored without further encoding."""
    return payloads[0]


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Return a file of the parts in order, with the RIFF length and the VP8X flags updated."""
    file = write_parts(chain([b"RIFF\0\0\0\0WEBP"], parts), size_bytes)
    extended_headers = []
    exif_flag = 0
    for name, start, _ in _read_chunks(file, _FIRST_CHUNK, file.tell()):
        if name == b"VP8X":
            extended_headers.append(start)
        if name == b"EXIF":
            exif_flag = _EXIF_FLAG
    with file.getbuffer() as riff:
        riff[4:8] = (len(riff) - 8).to_bytes(4, "little")
        for start in extended_headers:
            other_flags = riff[start] & ~(_EXIF_FLAG | _XMP_FLAG)
            riff[start] = other_flags | exif_flag
    return file.getvalue()


def read_coding(data: bytes) -> Coding:
    """Return how the first image is coded."""
    file = BytesIO(data)
    chunks = _read_chunks(file, _FIRST_CHUNK, _read_riff_end(file))
    for name, start, end in chunks:
        if name == b"ANMF":
            chunks = _read_chunks(file, start + _FRAME_HEADER_BYTES, end)
            is_lossless = any(name == b"VP8L" for name, _, _ in chunks)
            return Coding(is_lossless, waste=_WASTE)
        if name in (b"VP8 ", b"VP8L"):
            return Coding(name == b"VP8L", waste=_WASTE)
    return Coding()


def encode(image: Image.Image, encoding: Encoding) -> bytes:
    """Return an RGB or RGBA image as a WebP file.

    Raises:
        MemoryError: The encoder runs out of memory.
    """
    # This registers the encoder; otherwise Pillow's save() would load all its plugins.
    from PIL import WebPImagePlugin  # noqa: F401, PLC0415 - not at import: validating needs no Pillow

    file = BytesIO()
    try:
        if encoding.lossless:
            image.save(
                file, "WEBP", lossless=True, quality=_LOSSLESS_EFFORT, method=encoding.effort
            )
        else:
            image.save(file, "WEBP", quality=encoding.quality, method=encoding.effort)
    except ValueError as error:
        if str(error) in _ENCODER_OUT_OF_MEMORY:
            raise MemoryError(
                f"Cannot allocate memory to encode {image.width} x {image.height} pixels."
            ) from error
        raise
    return file.getvalue()


def shorten(data: bytes) -> Iterator[tuple[bytes, list[list[bytes]]]]:
    """Yield each frame as a still image, with shorter copies of it for each of its chunks.

    In each copy, one chunk of coded data lacks its last bytes. A decoder accepts all copies for a
    chunk, and returns the same pixels for them, only if it ignores the end of that chunk.
    """
    for chunks in _read_coded_chunks(data):
        header = _still_header(chunks)
        copies = []
        for index, (name, payload) in enumerate(chunks):
            before, after = chunks[:index], chunks[index + 1 :]
            shorter = []
            for missing in _SHORTER_BY:
                # The decoder also reads the byte that pads an odd length.
                end = max(0, len(payload) - missing - len(payload) % 2)
                shorter.append(_join_chunks([header, *before, (name, payload[:end]), *after]))
            copies.append(shorter)
        yield _join_chunks([header, *chunks]), copies


def _read_frame(file: BinaryIO, start: int, end: int) -> Frame:
    """Return the frame of an ANMF chunk.

    Its file declares the size that the frame does, so that a decoder refuses an image of another.
    """
    first_chunk = start + _FRAME_HEADER_BYTES
    header = _head(read_range(file, start, min(first_chunk, end)), _FRAME_HEADER_BYTES)
    numbers = [int.from_bytes(header[place : place + 3], "little") for place in range(0, 15, 3)]
    half_left, half_top, width_less_1, height_less_1, milliseconds = numbers
    flags = header[15]
    extended = struct.pack("<I", _ALPHA_FLAG) + header[6:12]
    chunks = [(b"VP8X", extended)]
    for name, begin, stop in _read_chunks(file, first_chunk, end):
        if name in _NEEDED:
            chunks.append((name, read_range(file, begin, stop)))
    return Frame(
        still=_join_chunks(chunks),
        left=2 * half_left,
        top=2 * half_top,
        width=width_less_1 + 1,
        height=height_less_1 + 1,
        milliseconds=milliseconds,
        blends=not flags & _REPLACES_FLAG,
        disposal="clear" if flags & _CLEARS_FLAG else "keep",
    )


def _read_coded_chunks(data: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield name and payload of the chunks with coded data, those of a frame together."""
    file = BytesIO(data)
    regions = [(_FIRST_CHUNK, len(data))]
    for name, start, end in _read_chunks(file, _FIRST_CHUNK, len(data)):
        if name == b"ANMF":
            regions.append((start + _FRAME_HEADER_BYTES, end))
    for region_start, region_end in regions:
        chunks = []
        for name, start, end in _read_chunks(file, region_start, region_end):
            if name in _NEEDED:
                chunks.append((name, data[start:end]))
        if chunks:
            yield chunks


def _still_header(chunks: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return name and payload of a VP8X chunk for a still image of these chunks."""
    for name, payload in chunks:
        if name == b"ALPH":
            continue
        header = payload[:10].ljust(10, b"\0")
        width, height = _read_canvas(bytes(_FIRST_CHUNK) + _chunk(name, header))
        flags = struct.pack("<I", _ALPHA_FLAG)
        sides = [max(0, side - 1).to_bytes(3, "little") for side in (width, height)]
        return b"VP8X", flags + b"".join(sides)
    raise InvalidImageError("The WebP has a frame without an image. Re-encode it.")


def _join_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return join(_chunk(name, payload) for name, payload in chunks)


def _read_canvas(head: bytes) -> tuple[int, int]:
    """Return the width and height that the first chunk declares."""
    match head[12:16]:
        case b"VP8X":
            width_less_one = int.from_bytes(head[24:27], "little")
            height_less_one = int.from_bytes(head[27:30], "little")
            return width_less_one + 1, height_less_one + 1
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF  # the upper two bits are a scaling hint
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise InvalidImageError(
        f"The WebP starts with {head[12:16]!r}, which is not an image header. Re-encode it."
    )


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
        raise InvalidImageError("The file does not start like a WebP. Re-encode it.")
    return 8 + int(length)


def _announces_exif(file: BinaryIO) -> bool:
    """Return whether VP8X announces EXIF; decoders look for EXIF only then."""
    file.seek(_FIRST_CHUNK)
    head = file.read(9)
    flags = int.from_bytes(head[8:])
    return head.startswith(b"VP8X") and bool(flags & _EXIF_FLAG)


def _padded(end: int, size: int) -> int:
    """Return where a chunk's padding ends; at the end of the file the padding may be missing."""
    return min(end + end % 2, size)


def _read_chunks(
    file: BinaryIO, position: int, region_end: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, payload start and payload end of the chunks from *position* to *region_end*."""
    size = file_size(file)
    for _ in range(MAX_PIECES):
        if position >= region_end:
            return
        file.seek(position)
        name, length = struct.unpack("<4sI", read_exactly(file, 8))
        start = position + 8
        end = start + length
        if end > region_end:
            raise InvalidImageError(
                f"The WebP has a chunk {name!r} that exceeds the declared length. Re-encode it."
            )
        if end > size:
            raise truncated(file)
        yield name, start, end
        position = end + length % 2
    raise too_many_pieces()


def _classify(name: bytes, payload: bytes, chunk: bytes, *, has_exif: bool) -> Piece:
    if name in _FIXED_LENGTHS:
        return Piece(_chunk(name, _head(payload, _FIXED_LENGTHS[name])))
    if name == b"ICCP":
        return Piece(chunk, ("icc",), payload)
    if name == b"EXIF":
        piece = metadata_piece("exif", payload.removeprefix(b"Exif\0\0"))
        return piece if has_exif else piece._replace(payload=b"")
    return metadata_piece(_KINDS.get(name, "other"), payload)


def _frame_pieces(file: BinaryIO, start: int, end: int, size: int) -> Iterator[Piece]:
    """Yield an animation frame: its header and its image, without its other chunks."""
    first_chunk = start + _FRAME_HEADER_BYTES
    beginning = read_range(file, start, min(first_chunk, end))
    frame_header = _head(beginning, _FRAME_HEADER_BYTES)
    kept = []  # ranges of the file
    kept_from = first_chunk
    for name, begin, stop in _read_chunks(file, first_chunk, end):
        if name not in _NEEDED:
            kept.append((kept_from, begin - 8))
            kept_from = _padded(stop, size)
    has_others = bool(kept)
    kept.append((kept_from, _padded(end, size)))

    image_bytes = sum(stop - begin for begin, stop in kept)
    length = len(frame_header) + image_bytes
    chunk_header = b"ANMF" + length.to_bytes(4, "little")
    kinds = ("other",) if has_others else ()
    yield Piece(chunk_header + frame_header, kinds)
    for begin, stop in kept:
        yield from _block_pieces(file, begin, stop)
    yield Piece(bytes(length % 2))


def _block_pieces(file: BinaryIO, start: int, end: int) -> Iterator[Piece]:
    for block in read_blocks(file, start, end):
        yield Piece(block)


def _head(payload: bytes, length: int) -> bytes:
    if len(payload) < length:
        raise InvalidImageError(
            f"The WebP has a chunk of {len(payload)} bytes instead of {length}. Re-encode it."
        )
    return payload[:length]


def _chunk(name: bytes, payload: bytes) -> bytes:
    length = len(payload).to_bytes(4, "little")
    padding = bytes(len(payload) % 2)
    return name + length + payload + padding
