"""The PNG container (W3C PNG, third edition, with APNG): chunks, each with a checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Literal

from imageprocessor.core.formats.container import (
    BLOCK_BYTES,
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

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_PALETTE = {b"PLTE", b"tRNS"}
_MAX_PALETTE_BYTES = 768
_DISPOSALS: dict[int, Literal["keep", "clear", "restore"]] = {0: "keep", 1: "clear", 2: "restore"}
_OVER = 1
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT"}
_COLOUR = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"mDCV", b"cLLI"}
_COLOUR_SPACE = {b"cICP", b"sRGB", b"gAMA", b"cHRM"}
_MAX_COLOUR_SPACE_BYTES = 32  # cHRM
_NEEDED = _ANIMATION | _COLOUR | {b"tRNS", b"pHYs"}
_KINDS = {b"caBX": "c2pa", b"tIME": "time"}
_FRAME_CONTROL_BYTES = 26
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

_DEFLATE_LEVELS = (1, 2, 4, 5, 6, 8, 9)
"""zlib's level for each effort: of a photo, 4 takes 0.4 times as long as 6, and 9 four times."""
_COLOR_TYPE_AT = 25
_RGB_TYPES = {2, 6}  # without and with alpha
_RGB_WASTE = 3.2
_OTHER_WASTE = 1.5
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row, and the steps to the next ones, of each pass of an interlaced image."""


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


def read_coding(data: bytes) -> Coding:
    """Return how much longer than necessary such a file may be.

    Unlike WebP, PNG codes red, green and blue without regard to each other.
    """
    is_rgb = data[_COLOR_TYPE_AT] in _RGB_TYPES
    return Coding(is_lossless=True, waste=_RGB_WASTE if is_rgb else _OTHER_WASTE)


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: signature, chunks, and trailing bytes.

    An ancillary chunk with a wrong checksum is not used. If IEND is missing or damaged, it is added
    behind the last valid chunk; only a decoder can say whether the image is whole.

    Raises:
        InvalidImageError: The checksum of a critical chunk is wrong, or the name of a chunk before
            the first IDAT is.
        TruncatedImageError: The file ends before the first IDAT does.
    """
    yield Piece(_SIGNATURE)
    end = 0
    has_end_mark = False
    for name, start, end in _read_chunks(file):
        is_colour_space = name in _COLOUR_SPACE and end - start <= _MAX_COLOUR_SPACE_BYTES
        if name == b"IEND":
            has_end_mark = _has_right_checksum(file, name, start, end)
            if end > start:
                yield metadata_piece("other")
        elif name in _CRITICAL:
            yield from _critical_pieces(file, name, start, end)
        elif name not in _NEEDED:
            yield _classify(file, name, start, end)
        elif not _has_right_checksum(file, name, start, end):
            continue
        elif is_colour_space:
            chunk = read_range(file, start - 8, end + 4)
            yield Piece(chunk, color_chunk=chunk[4:-4])
        else:
            for block in read_blocks(file, start - 8, end + 4):
                yield Piece(block, is_animation=name in _ANIMATION)
    yield Piece(_chunk(b"IEND", b""), is_end_added=not has_end_mark)
    yield from trailer_pieces(file, end + 4)


def read_durations(file: BinaryIO) -> Iterator[float]:
    """Yield the milliseconds of each frame, from its fcTL chunk; a denominator of 0 means 100."""
    with suppress(TruncatedImageError):
        for name, start, end in _read_chunks(file):
            is_control = name == b"fcTL" and end - start == _FRAME_CONTROL_BYTES
            if is_control and _has_right_checksum(file, name, start, end):
                delay = read_range(file, start + 20, start + 24)
                numerator, denominator = struct.unpack(">HH", delay)
                yield 1000 * numerator / (denominator or 100)


def read_frames(file: BinaryIO) -> Frames:
    """Return the frames that acTL announces, or none if it announces less than two.

    An image before the first fcTL is none of them.

    Raises:
        TruncatedImageError: Frames are missing.
        InvalidImageError: A chunk is damaged or out of order, or a frame is not within the image.
    """
    canvas = read_header(file)
    if canvas.frames == 1:
        return Frames([], 0)
    header = b""
    plays = 0
    palette: list[bytes] = []
    controls: list[bytes] = []
    pixels: list[list[bytes]] = []
    for name, payload in _read_animation_chunks(file):
        if name == b"IHDR":
            header = payload
        elif name == b"acTL":
            plays = int.from_bytes(payload[4:8])
        elif name in _PALETTE:
            palette.append(_chunk(name, payload))
        elif name == b"fcTL":
            if len(controls) == canvas.frames:
                break
            controls.append(payload)
            pixels.append([])
        elif controls:
            pixels[-1].append(payload)
    if len(controls) < canvas.frames or not pixels[-1]:
        raise truncated(file)
    frames = []
    for control, parts in zip(controls, pixels, strict=True):
        width, height, left, top, *delay, disposal, blend = struct.unpack_from(
            ">IIIIHHBB", control.ljust(26, b"\0"), 4
        )
        still = [_SIGNATURE, _chunk(b"IHDR", control[4:12] + header[8:]), *palette]
        still += [_chunk(b"IDAT", b"".join(parts)), _chunk(b"IEND", b"")]
        frame = Frame(
            still=b"".join(still),
            left=left,
            top=top,
            width=width,
            height=height,
            milliseconds=1000 * delay[0] / (delay[1] or 100),
            blends=blend == _OVER,
            disposal=_DISPOSALS.get(disposal, "keep"),
        )
        check_frame(frame, canvas)
        frames.append(frame)
    return Frames(frames, plays)


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


def trim(data: bytes) -> bytes:
    """Return a file without what follows the last pixel in its IDAT chunks.

    Raises:
        TruncatedImageError: Pixels are missing.
    """
    needed = _pixel_bytes(data)
    inflated = _Inflated(data)
    size = _count_bytes(inflated, needed + 1)
    if size < needed:
        raise missing_pixels()
    if size == needed and inflated.is_exact:
        return data
    return _replace_pixels(data, _deflate(_Inflated(data), needed))


def has_all_pixels(data: bytes) -> bool:
    """Return whether the IDAT chunks of a file have as many bytes as its size in pixels needs."""
    needed = _pixel_bytes(data)
    return _count_bytes(_Inflated(data), needed) >= needed


def missing_pixels() -> TruncatedImageError:
    """Return the error for a file whose IDAT chunks end before the last pixel."""
    return TruncatedImageError(
        "The PNG ends before its last pixel: image data is missing. Send the whole file."
    )


def encode(image: Image.Image, encoding: Encoding) -> bytes:
    """Return an RGB or RGBA image as a PNG file, which loses nothing."""
    from PIL import PngImagePlugin  # noqa: F401, PLC0415 - see ``webp.encode``

    file = BytesIO()
    image.save(
        file,
        "PNG",
        compress_level=_DEFLATE_LEVELS[encoding.effort],
        icc_profile=None,  # otherwise Pillow would copy these two from ``image.info``
        transparency=None,
    )
    return file.getvalue()


def _read_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, payload start and payload end of every chunk up to and including IEND.

    After an IDAT chunk, what is no chunk, or is not whole, also is the end of the image.
    """
    size = file_size(file)
    file.seek(0)
    if read_exactly(file, 8) != _SIGNATURE:
        raise InvalidImageError("The file does not start like a PNG. Re-encode it.")
    position = len(_SIGNATURE)
    has_pixels = False
    for _ in range(MAX_PIECES):
        file.seek(position)
        head = file.read(8)
        name = head[4:]
        end = position + 8 + int.from_bytes(head[:4])
        is_first = position == len(_SIGNATURE)
        is_valid = name.isalpha() and is_first == (name == b"IHDR")
        is_whole = len(head) == 8 and end + 4 <= size
        if has_pixels and not (is_valid and is_whole):
            return
        if len(head) < 8:
            raise truncated(file)
        if not is_valid:
            raise InvalidImageError(
                f"The PNG has an invalid or misplaced chunk {name!r} at byte {position}. "
                "Re-encode it."
            )
        if not is_whole:
            raise truncated(file)
        yield name, position + 8, end
        if name == b"IEND":
            return
        has_pixels |= name == b"IDAT"
        position = end + 4
    raise too_many_pieces()


def _count_frames(file: BinaryIO, chunks: Iterator[tuple[bytes, int, int]]) -> int:
    with suppress(TruncatedImageError):
        for name, start, end in chunks:
            if name == b"acTL" and end - start == 8 and _has_right_checksum(file, name, start, end):
                frames = int.from_bytes(read_range(file, start, start + 4))
                return frames if 0 < frames < 1 << 31 else 1
            if name == b"IDAT":
                break
    return 1


def _read_animation_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and payload of the chunks that frames are made of; fdAT without its number.

    Raises:
        InvalidImageError: A checksum is wrong, or the numbers of fcTL and fdAT are out of order.
    """
    number = 0
    for name, start, end in _read_chunks(file):
        if name not in _ANIMATION | _PALETTE | {b"IHDR", b"IDAT"}:
            continue
        if name in _PALETTE and end - start > _MAX_PALETTE_BYTES:
            continue
        payload = read_range(file, start, end)
        stored = read_range(file, end, end + 4)
        _check_checksum(name, zlib.crc32(name + payload), stored)
        if name in (b"fcTL", b"fdAT"):
            if int.from_bytes(payload[:4]) != number:
                raise InvalidImageError(
                    f"The PNG has an animation whose parts are not in order: part {number} is "
                    "missing. Send the file again."
                )
            number += 1
        yield name, payload[4:] if name == b"fdAT" else payload


def _critical_pieces(file: BinaryIO, name: bytes, start: int, end: int) -> Iterator[Piece]:
    """Yield a chunk to keep, in blocks, and check its checksum at its end."""
    yield Piece(read_range(file, start - 8, start))
    checksum = zlib.crc32(name)
    for block in read_blocks(file, start, end):
        checksum = zlib.crc32(block, checksum)
        yield Piece(block)
    stored = read_range(file, end, end + 4)
    _check_checksum(name, checksum, stored)
    yield Piece(stored)


def _has_right_checksum(file: BinaryIO, name: bytes, start: int, end: int) -> bool:
    checksum = zlib.crc32(name)
    for block in read_blocks(file, start, end):
        checksum = zlib.crc32(block, checksum)
    return checksum == int.from_bytes(read_range(file, end, end + 4))


def _classify(file: BinaryIO, name: bytes, start: int, end: int) -> Piece:
    payload = read_range(file, start, end)
    if name in _TEXT_CHUNKS:
        return _text_piece(name, payload)
    if name not in {b"iCCP", b"eXIf"}:
        return metadata_piece(_KINDS.get(name, "other"))
    is_damaged = not _has_right_checksum(file, name, start, end)
    if name == b"eXIf":
        piece = metadata_piece("exif", payload)
        return piece._replace(payload=b"") if is_damaged else piece
    if is_damaged:
        return Piece(kinds=("icc",))
    profile_name, _, method_and_profile = payload.partition(b"\0")
    # The name is free text, so a neutral name of at most its length replaces it.
    plain_name = _ICC_NAME[: len(profile_name)]
    clean = _chunk(name, plain_name + b"\0" + method_and_profile)
    return Piece(clean, kinds=("icc",), payload=method_and_profile[1:])


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


class _Inflated:
    """The bytes of an image before compression, in blocks, as far as they can be decompressed.

    After that, ``is_exact`` is whether the compressed data ended with its checksum, and nothing
    followed it. Like Pillow, this reads pixels whose checksum is wrong.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.is_exact = False

    def __iter__(self) -> Iterator[bytes]:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        checksum = 1
        rest = b""
        with suppress(zlib.error):
            for compressed in self._compressed_blocks():
                if decompressor.eof:
                    rest = (rest + compressed)[:5]
                    continue
                unread = compressed
                while unread and not decompressor.eof:
                    block = decompressor.decompress(unread, BLOCK_BYTES)
                    unread = decompressor.unconsumed_tail
                    checksum = zlib.adler32(block, checksum)
                    yield block
                rest = decompressor.unused_data
        self.is_exact = decompressor.eof and rest == checksum.to_bytes(4)

    def _compressed_blocks(self) -> Iterator[bytes]:
        """Yield the compressed data without its header."""
        file = BytesIO(self._data)
        header_bytes = 2
        for name, start, end in _read_chunks(file):
            if name != b"IDAT":
                continue
            skipped = min(header_bytes, end - start)
            header_bytes -= skipped
            yield from read_blocks(file, start + skipped, end)


def _count_bytes(blocks: Iterable[bytes], enough: int) -> int:
    """Return the number of bytes in the blocks, or *enough* or more if it is."""
    size = 0
    for block in blocks:
        size += len(block)
        if size >= enough:
            break
    return size


def _pixel_bytes(data: bytes) -> int:
    """Return the number of bytes of the image before compression, according to IHDR."""
    width, height, depth, color_type, _, _, is_interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS.get(color_type, 1)
    total = 0
    for left, top, across, down in _PASSES if is_interlaced else ((0, 0, 1, 1),):
        columns = max(0, -(-(width - left) // across))
        rows = max(0, -(-(height - top) // down))
        filter_and_row = 1 + -(-columns * bits // 8)
        total += rows * filter_and_row if columns else 0
    return total


def _deflate(blocks: Iterable[bytes], size: int) -> bytes:
    """Return the first *size* bytes of the blocks, compressed."""
    compressor = zlib.compressobj()
    parts = []
    for block in blocks:
        parts.append(compressor.compress(block[:size]))
        size -= len(block)
        if size <= 0:
            break
    parts.append(compressor.flush())
    return b"".join(parts)


def _replace_pixels(data: bytes, compressed: bytes) -> bytes:
    """Return a file with other compressed pixels, in one IDAT chunk."""
    parts = [_SIGNATURE]
    pixels = [_chunk(b"IDAT", compressed)]
    for name, start, end in _read_chunks(BytesIO(data)):
        if name != b"IDAT":
            parts.append(data[start - 8 : end + 4])
        elif pixels:
            parts.append(pixels.pop())
    return b"".join(parts)
