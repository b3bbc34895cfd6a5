"""The GIF container (GIF89a): extensions and images, whose data is in blocks of up to 255 bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple

from imageprocessor.core.formats.container import (
    BLOCK_BYTES,
    MAX_PIECES,
    Coding,
    Frame,
    Frames,
    Header,
    Piece,
    metadata_piece,
    read_blocks,
    read_range,
    too_many_pieces,
    trailer_pieces,
    truncated,
    write_parts,
)
from imageprocessor.errors import InputError, InvalidImageError

_SIGNATURES = {b"GIF87a", b"GIF89a"}
_SCREEN_BYTES = 13
_DESCRIPTOR_BYTES = 10
_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B
_PLAIN_TEXT, _CONTROL, _COMMENT, _APPLICATION = 0x01, 0xF9, 0xFE, 0xFF
_LOOPS = {b"NETSCAPE2.0", b"ANIMEXTS1.0"}
_LOOP_BYTES = 3
_XMP = b"XMP DataXMP"
_ICC = b"ICCRGBG1012"
_KINDS = {_XMP: "xmp", b"C2PA_GIF\x01\x00\x00": "c2pa"}
_DISPOSALS: dict[int, Literal["clear", "restore"]] = {2: "clear", 3: "restore", 4: "restore"}
"""Some old programs write 4 for 3, and browsers take it for that."""
_MAX_CONTENT_BYTES = 16 << 20
_MIN_READ_BYTES = 256
_SHORTER_BY = 4
"""The last pixel, the end code and its padding are in the last 4 bytes of what encoders write."""


class _Part(NamedTuple):
    """An extension or an image: its kind, and where it starts and ends in the file.

    *content* is where the blocks of an extension start, or the code size of an image. *frame* is
    left, top, width and height of an image.
    """

    kind: int
    start: int
    content: int
    end: int
    label: int = 0
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)


def read_header(file: BinaryIO) -> Header:
    """Return the size of the screen, extended to the first image, and the number of whole images.

    Browsers extend the screen in the same way. The decoded size also contains later images.

    Raises:
        InvalidImageError: The file has no image, or its first one has no pixels.
        TruncatedImageError: The file ends before its first image starts.
    """
    width, height, screen_end = _read_screen(file)
    frames = [part.frame for part in _read_parts(file, screen_end) if part.kind == _IMAGE]
    if not frames:
        raise InvalidImageError("The GIF has no image. Re-encode it.")
    if 0 in frames[0][2:]:
        raise InvalidImageError("The first image of the GIF has no pixels. Re-encode it.")
    width, height = _extend(width, height, frames[:1])
    return Header(width, height, len(frames), decoded=_extend(width, height, frames))


def read_pieces(file: BinaryIO) -> Iterator[Piece]:
    """Yield the file in order: screen, loop count and images with their delays, and what to drop.

    What follows the first whole image need not be valid. If the end mark is missing, it is added.

    Raises:
        InvalidImageError: The file has no image, or what precedes it does not follow the format.
        TruncatedImageError: The file ends before its first image does.
    """
    _, _, position = _read_screen(file)
    yield Piece(read_range(file, 0, position))
    images = 0
    control = b""
    has_end = False
    for part in _read_parts(file, position):
        position = part.end
        if part.kind == _END:
            has_end = True
        elif part.kind == _IMAGE:
            is_later = images > 0
            if control:
                yield Piece(control, is_animation=is_later)
            for block in read_blocks(file, part.start, part.end):
                yield Piece(block, is_animation=is_later)
            images += 1
            control = b""
        elif part.label == _CONTROL:
            control = _read_control(file, part)
        else:
            yield _classify(file, part)
            if part.label == _PLAIN_TEXT:
                control = b""  # it was for the text
    if images == 0:
        raise InvalidImageError("The GIF has no image. Re-encode it.")
    yield Piece(bytes((_END,)), is_end_added=not has_end)
    yield from trailer_pieces(file, position)


def read_coding(_data: bytes) -> Coding:
    """Return how much longer than necessary such a file may be."""
    return Coding(is_lossless=True, waste=1.5)


def read_durations(file: BinaryIO) -> Iterator[float]:
    """Yield the milliseconds of each image, 0 if it does not declare any."""
    _, _, screen_end = _read_screen(file)
    milliseconds = 0
    for part in _read_parts(file, screen_end):
        if part.kind == _IMAGE:
            yield milliseconds
            milliseconds = 0
        elif part.label == _CONTROL:
            control = _read_control(file, part)
            milliseconds = 10 * int.from_bytes(control[4:6], "little")
        elif part.label == _PLAIN_TEXT:
            milliseconds = 0


def read_frames(file: BinaryIO) -> Frames:
    """Return the images of an animation; one may reach over the edges of the screen.

    Raises:
        TruncatedImageError: The file ends within a part.
        InvalidImageError: An image has no pixels.
    """
    _, _, screen_end = _read_screen(file)
    screen = read_range(file, 0, screen_end)
    plays = 1
    control = b""
    frames = []
    end = screen_end
    for part in _read_parts(file, screen_end):
        end = part.end
        if part.kind == _IMAGE:
            frames.append(_read_frame(file, part, screen, control))
            control = b""
        elif part.label == _CONTROL:
            control = _read_control(file, part)
        elif part.label == _PLAIN_TEXT:
            control = b""
        elif part.label == _APPLICATION:
            head = read_range(file, part.content, min(part.content + 16, part.end))
            if head[1:12] in _LOOPS and head[12:14] == b"\x03\x01":
                repeats = int.from_bytes(head[14:16], "little")
                plays = repeats + 1 if repeats else 0
    file.seek(end)
    if file.read(1) in (b",", b"!"):  # of a part that is not whole
        raise truncated(file)
    return Frames(frames, plays)


def exif_piece(exif: bytes) -> bytes:  # noqa: ARG001 - as in each container
    """Return nothing: a GIF has no place for EXIF."""
    return b""


def decode_icc(payloads: Sequence[bytes]) -> bytes:
    """Return the first profile."""
    return payloads[0]


def join(parts: Iterable[bytes], size_bytes: int = 0) -> bytes:
    """Return a file of the parts in order."""
    return write_parts(parts, size_bytes).getvalue()


def shorten(data: bytes) -> Iterator[tuple[bytes, list[list[bytes]]]]:
    """Yield each image as a file of its own, with one copy whose data lacks its last bytes.

    A decoder finds all pixels in the copy only if it ignores the end of the data.
    """
    file = BytesIO(data)
    _, _, screen_end = _read_screen(file)
    screen = data[:screen_end]
    end = bytes((_END,))
    for part in _read_parts(file, screen_end):
        if part.kind != _IMAGE:
            continue
        _, _, width, height = part.frame
        sides = struct.pack("<HH", width, height)
        head = screen[:6] + sides + screen[10:]
        # The image descriptor without its position, which is now 0, its palette and its code size
        image = data[part.start : part.start + 1] + bytes(4) + data[part.start + 5 : part.content]
        content = _read_content(file, part)
        shorter = image + _write_blocks(content[:-_SHORTER_BY])
        yield (
            head + image + _write_blocks(content) + end,
            [[head + shorter + end]],
        )


def _read_frame(file: BinaryIO, part: _Part, screen: bytes, control: bytes) -> Frame:
    """Return an image with the control before it, as a file whose screen it fills."""
    left, top, width, height = part.frame
    if min(width, height) < 1:
        raise InvalidImageError("An image of the GIF has no pixels. Re-encode it.")
    data = read_range(file, part.start, part.end)
    own_screen = screen[:6] + data[5:9] + screen[10:]
    image_at_origin = data[:1] + bytes(4) + data[5:]
    end = bytes((_END,))
    flags = control[3] if control else 0
    hundredths = int.from_bytes(control[4:6], "little")
    return Frame(
        still=own_screen + control + image_at_origin + end,
        left=left,
        top=top,
        width=width,
        height=height,
        milliseconds=10 * hundredths,
        blends=True,
        disposal=_DISPOSALS.get(flags >> 2 & 7, "keep"),
    )


def _read_screen(file: BinaryIO) -> tuple[int, int, int]:
    """Return width and height of the logical screen, and where its palette ends."""
    head = read_range(file, 0, _SCREEN_BYTES)
    if head[:6] not in _SIGNATURES:
        raise InvalidImageError("The file does not start like a GIF. Re-encode it.")
    width, height, flags = struct.unpack_from("<HHB", head, 6)
    return width, height, _SCREEN_BYTES + _palette_bytes(flags)


def _extend(
    width: int, height: int, frames: Iterable[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Return a size that contains the frames, too."""
    for left, top, frame_width, frame_height in frames:
        width = max(width, left + frame_width)
        height = max(height, top + frame_height)
    return width, height


def _read_parts(file: BinaryIO, position: int) -> Iterator[_Part]:
    """Yield the extensions and images from *position* on, and the end mark.

    After a whole image, what is no part, or is not whole, also is the end of the file.
    """
    has_image = False
    for _ in range(MAX_PIECES):
        try:
            part = _read_part(file, position)
        except InputError:
            if has_image:
                return
            raise
        yield part
        if part.kind == _END:
            return
        has_image |= part.kind == _IMAGE
        position = part.end
    raise too_many_pieces()


def _read_part(file: BinaryIO, start: int) -> _Part:
    """Return the part that starts at *start*, after reading to its end."""
    file.seek(start)
    head = file.read(_DESCRIPTOR_BYTES)
    kind = head[0] if head else -1
    if kind == _END:
        return _Part(kind, start, start + 1, start + 1)
    if kind == _EXTENSION and len(head) > 1:
        return _Part(kind, start, start + 2, _blocks_end(file, start + 2), label=head[1])
    if kind == _IMAGE and len(head) == _DESCRIPTOR_BYTES:
        frame = struct.unpack_from("<HHHH", head, 1)
        code_size = start + _DESCRIPTOR_BYTES + _palette_bytes(head[9])
        return _Part(kind, start, code_size + 1, _blocks_end(file, code_size + 1), frame=frame)
    if kind in {-1, _EXTENSION, _IMAGE}:
        raise truncated(file)
    raise InvalidImageError(
        f"The GIF has an unknown part 0x{kind:02X} at byte {start}. Re-encode it."
    )


def _palette_bytes(flags: int) -> int:
    """Return the length of the palette that the flags of the screen or of an image declare."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks_end(file: BinaryIO, position: int) -> int:
    """Return the position behind the empty block that ends a chain of blocks."""
    read_bytes = _MIN_READ_BYTES
    while True:
        file.seek(position)
        buffer = file.read(read_bytes)
        if not buffer:
            raise truncated(file)
        index = 0
        while index < len(buffer):
            length = buffer[index]
            index += 1 + length
            if length == 0:
                return position + index
        position += index
        read_bytes = min(2 * read_bytes, BLOCK_BYTES)  # so that the work is linear


def _read_content(file: BinaryIO, part: _Part) -> bytes:
    """Return the content of the blocks of a part, at most 16 MiB."""
    content = bytearray()
    chain = read_range(file, part.content, part.end)
    index = 0
    while chain[index] and len(content) < _MAX_CONTENT_BYTES:
        length = chain[index]
        content += chain[index + 1 : index + 1 + length]
        index += 1 + length
    return bytes(content)


def _write_blocks(content: bytes) -> bytes:
    blocks = []
    for start in range(0, len(content), 255):
        block = content[start : start + 255]
        blocks.append(bytes((len(block),)) + block)
    return b"".join(blocks) + b"\0"


def _read_control(file: BinaryIO, part: _Part) -> bytes:
    """Return a graphic control extension without what follows its fields; b"" if too short."""
    head = read_range(file, part.start, min(part.start + 7, part.end))
    fields = head[3:]
    if len(fields) < 4 or head[2] < 4:
        return b""
    return head[:2] + b"\x04" + fields + b"\0"


def _classify(file: BinaryIO, part: _Part) -> Piece:
    """Return an extension other than a graphic control."""
    if part.label in {_COMMENT, _PLAIN_TEXT}:
        return metadata_piece("comment")
    if part.label != _APPLICATION:
        return metadata_piece("other")
    chain = read_range(file, part.content, part.end)
    name = chain[1:12]
    if chain[0] != len(name):
        return metadata_piece("other")
    if name in _LOOPS:
        loop = chain[12:16]
        if len(loop) < 4 or loop[:2] != b"\x03\x01":
            return metadata_piece("other")
        clean = b"!\xff\x0b" + name + loop + b"\0"
        has_more = len(clean) < part.end - part.start
        return Piece(clean, kinds=("other",) if has_more else ())
    if name == _ICC:
        content = _read_content(file, part)
        return Piece(read_range(file, part.start, part.end), ("icc",), content[len(name) :])
    return metadata_piece(_KINDS.get(name, "other"), chain[12:])
