"""GIF files made of single parts, valid and hostile."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import imageprocessor as ip
from tests.images import _plant, planted_xmp

LIMITS = ip.Limits(mime_types=frozenset({"image/gif"}))
PALETTE = b"".join(bytes((level, 255 - level, level // 2)) for level in range(256))
CODE_BITS = 8
END = b";"


def gif(screen: tuple[int, int], *parts: bytes, palette: bytes = PALETTE) -> bytes:
    """Return a file of parts, with its end mark."""
    flags = 0xF7 if palette else 0x70
    head = struct.pack("<6sHHBBB", b"GIF89a", *screen, flags, 0, 0)
    return head + palette + b"".join(parts) + END


def frame(
    size: tuple[int, int],
    pixels: Sequence[int] | int,
    at: tuple[int, int] = (0, 0),
    *,
    palette: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """Return an image of palette indexes, in code that is not compressed; *tail* follows it."""
    width, height = size
    indexes = [pixels] * (width * height) if isinstance(pixels, int) else pixels
    descriptor = b"," + struct.pack("<HHHHB", *at, width, height, 0x87 if palette else 0)
    return descriptor + palette + bytes((CODE_BITS,)) + blocks(encode_indexes(indexes) + tail)


def encode_indexes(indexes: Sequence[int]) -> bytes:
    """Return LZW code of 9 bits each, cleared before it would need longer ones."""
    clear = 1 << CODE_BITS
    codes = []
    for position, index in enumerate(indexes):
        if position % (clear - 2) == 0:
            codes.append(clear)
        codes.append(index)
    codes.append(clear + 1)
    bits = 0
    for position, code in enumerate(codes):
        bits |= code << position * (CODE_BITS + 1)
    return bits.to_bytes(-(-len(codes) * (CODE_BITS + 1) // 8), "little")


def blocks(content: bytes) -> bytes:
    parts = [content[start : start + 255] for start in range(0, len(content), 255)]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def extension(label: int, content: bytes) -> bytes:
    return bytes((0x21, label)) + blocks(content)


def application(name: bytes, content: bytes) -> bytes:
    return b"\x21\xff\x0b" + name + blocks(content)


def control(hundredths: int = 4, *, disposal: int = 0, transparent: int | None = None) -> bytes:
    flags = disposal << 2 | (transparent is not None)
    return extension(0xF9, struct.pack("<BHB", flags, hundredths, transparent or 0))


def comment(text: bytes) -> bytes:
    return extension(0xFE, text)


def plain_text(text: bytes) -> bytes:
    return b"\x21\x01\x0c" + struct.pack("<HHHHBBBB", 0, 0, 8, 8, 8, 8, 1, 0) + blocks(text)


def loop(count: int = 0) -> bytes:
    return application(b"NETSCAPE2.0", b"\1" + count.to_bytes(2, "little"))


def animated_gif(frames: int = 3, size: tuple[int, int] = (8, 6)) -> bytes:
    parts = [control() + frame(size, index) for index in range(frames)]
    return gif(size, loop(), *parts)


def planted_gif() -> bytes:
    """Return an animation with private data everywhere that the format allows it."""
    xmp = planted_xmp()
    magic = b"\1" + bytes(range(255, -1, -1)) + b"\0"  # so that readers of blocks find its end
    return gif(
        (8, 6),
        comment(_plant("gif-comment")),
        loop(),
        b"\x21\xff\x0bXMP DataXMP" + xmp + magic,
        application(b"C2PA_GIF\1\0\0", _plant("gif-c2pa")),
        application(b"PRIVATE1234", _plant("gif-application")),
        extension(0x77, _plant("gif-extension")),
        b"\x21\xf9" + blocks(b"\0\4\0\0" + _plant("gif-control")),
        frame((8, 6), 1),
        control(),
        plain_text(_plant("gif-text")),
        control(),
        frame((8, 6), 2),
        comment(_plant("gif-comment-between")),
    ) + _plant("trailer")
