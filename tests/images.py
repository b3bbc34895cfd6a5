"""Images generated for tests: valid ones, hostile ones, and ones with planted metadata."""

from __future__ import annotations

import os
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

CORPUS = Path(os.environ.get("PHOTO_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
"""A folder of photographs from real cameras, which is not part of the repository."""
PHOTOGRAPHS = sorted(CORPUS.rglob("*.jpg"))
needs_photographs = pytest.mark.skipif(
    not PHOTOGRAPHS, reason=f"no photographs in {CORPUS}; set PHOTO_CORPUS to another folder"
)
each_photograph = pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)

SENTINELS: list[bytes] = []
"""The byte strings in every metadata slot of the planted images; none may survive."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PRIVATE_PROFILE = SRGB_PROFILE.replace(
    "sRGB built-in".encode("utf-16-be"), "PRIVATE-descr".encode("utf-16-be")
)
"""A valid profile whose description is a sentinel.

`strip_metadata` keeps profiles, so no planted image has this one by default.
"""

_STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an RGB image with gradients and noise, always the same for the same arguments."""
    across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    channels = np.stack([across, down, 200 - (across + down) / 2], axis=-1)
    noise = np.random.default_rng(seed).integers(0, 55, channels.shape)
    return Image.fromarray((channels + noise).astype(np.uint8))


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[bytes]:
    """Return the decoded pixels of every frame, before orientation."""
    with Image.open(BytesIO(data)) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1) if image.format != "MPO" else 1):
            image.seek(index)
            frames.append(image.mode.encode() + image.tobytes())
        return frames


def truncated(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


def oriented(
    upright: Image.Image, orientation: int, image_format: str = "JPEG", **options: Any
) -> bytes:
    """Encode ``upright`` as a camera does: rotated, with the orientation in EXIF."""
    stored = upright.transpose(_STORED_AS[orientation]) if orientation in _STORED_AS else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(stored, image_format, exif=exif.tobytes(), **options)


def animated_webp(frames: int = 3, size: tuple[int, int] = (32, 24)) -> bytes:
    return _animation("WEBP", frames, size, lossless=True)


def apng(frames: int = 3, size: tuple[int, int] = (32, 24)) -> bytes:
    return _animation("PNG", frames, size)


def _animation(image_format: str, frames: int, size: tuple[int, int], **options: Any) -> bytes:
    first, *others = [photo(*size, seed=index) for index in range(frames)]
    return encode(first, image_format, save_all=True, append_images=others, duration=40, **options)


def png_bomb(width: int, height: int) -> bytes:
    """Return a PNG of about 70 bytes that declares ``width`` x ``height`` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        png_chunk(b"IHDR", header),
        png_chunk(b"IDAT", zlib.compress(b"\0")),
        png_chunk(b"IEND"),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_claiming(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header declares ``width`` x ``height`` pixels."""
    data = bytearray(encode(photo(16, 16), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """Return a WebP of 30 bytes that has a header but no image."""
    return riff(
        webp_chunk(
            b"VP8X",
            bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        )
    )


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def png_chunk(name: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + zlib.crc32(name + payload).to_bytes(4)


def webp_chunk(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def first_scan(jpeg: bytes) -> int:
    """Return where the coded data of the first scan starts."""
    start = jpeg.index(b"\xff\xda")
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])


def insert_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Insert segments right after the start-of-image marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def insert_chunks(png: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    place = png.index(before) - 4
    return png[:place] + b"".join(chunks) + png[place:]


def webp_chunks(webp: bytes, position: int = 12) -> list[tuple[bytes, bytes]]:
    """Return name and payload of every chunk from ``position`` on."""
    chunks = []
    while position < len(webp):
        name, length = struct.unpack_from("<4sI", webp, position)
        chunks.append((name, webp[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return chunks


def planted_exif(orientation: int = 6) -> bytes:
    """Return a TIFF block with camera, position, time, maker note and preview."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131] = (
        "Acme",
        _plant("model").decode(),
        _plant("software").decode(),
    )
    exif[0x0112] = orientation
    exif[0x013B] = _plant("artist").decode()
    user_comment = b"ASCII\0\0\0" + _plant("user-comment")
    exif.get_ifd(0x8769).update(
        {0x9003: "2021:06:01 12:00:00", 0x927C: _plant("maker-note"), 0x9286: user_comment}
    )
    exif.get_ifd(0x8825).update(
        {1: "S", 2: (33.0, 51.0, 35.9), 3: "E", 4: (151.0, 12.0, 40.0), 0x1D: "2021:06:01"}
    )
    exif.get_ifd(0x8825)[0x1B] = b"ASCII\0\0\0" + _plant("gps-method")
    tiff = bytearray(exif.tobytes()[6:])
    order = "<" if tiff[:2] == b"II" else ">"
    entries = struct.unpack_from(f"{order}H", tiff, 8)[0]
    struct.pack_into(f"{order}I", tiff, 10 + 12 * entries, len(tiff))
    preview = insert_segments(encode(photo(8, 8), "JPEG"), jpeg_segment(0xFE, _plant("preview")))
    start = len(tiff) + 30
    directory = struct.pack(
        f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, start, 0x0202, 4, 1, len(preview), 0
    )
    return bytes(tiff) + directory + preview


def planted_xmp(mark: str = "") -> bytes:
    return b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + _plant("xmp") + mark.encode() + b"</x:xmpmeta>"


def planted_jpeg(
    image: Image.Image | None = None,
    orientation: int = 6,
    *,
    progressive: bool = True,
    profile: bytes = SRGB_PROFILE,
) -> bytes:
    """Return a JPEG with private data everywhere that the format allows it."""
    plain = encode(
        image or photo(64, 48), "JPEG", quality=90, progressive=progressive, icc_profile=profile
    )
    jfif_end = 2 + 18
    preview = encode(photo(8, 8), "JPEG")
    data = b"".join(
        [
            plain[:2],
            jpeg_segment(0xE0, plain[6:18] + b"\x05\x01" + _plant("jfif")[:15]),
            jpeg_segment(0xE0, b"JFXX\0\x10" + preview + _plant("jfxx")),
            jpeg_segment(0xE1, b"Exif\0\0" + planted_exif(orientation)),
            jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + planted_xmp()),
            jpeg_segment(
                0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + _plant("extended-xmp")
            ),
            jpeg_segment(0xE2, b"MPF\0" + _image_index(0, 0) + _plant("mpf")),
            jpeg_segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + _plant("gain-map")),
            jpeg_segment(0xEB, b"JP\0\1\0\0\0\1" + b"\0\0\0\x40jumbc2pa" + _plant("c2pa")),
            jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0" + _plant("iptc")),
            jpeg_segment(0xEE, _plant("app14")),
            jpeg_segment(0xE5, _plant("app5")),
            jpeg_segment(0xFE, _plant("comment")),
            plain[jfif_end:],
        ]
    )
    first_scan = data.rindex(b"\xff\xc2" if progressive else b"\xff\xc0")
    scan = data.index(b"\xff\xda", first_scan) + 2
    after_scan = MARKER.search(data, scan)
    assert after_scan is not None
    comment = jpeg_segment(0xFE, _plant("comment-between-scans"))
    second = insert_segments(preview, jpeg_segment(0xFE, _plant("second-image")))
    data = data[: after_scan.start()] + comment + data[after_scan.start() :]
    index = _image_index(len(data) - data.index(b"MPF\0") - 4, len(second))
    return data.replace(_image_index(0, 0), index) + second + _motion_photo() + _plant("trailer")


def _image_index(offset: int, size_bytes: int) -> bytes:
    """Return a multi-picture index (CIPA DC-007) of two images.

    The offset of the second image counts from the start of this index.
    """
    header = struct.pack("<2sHIH", b"II", 42, 8, 3)
    version = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    entries = struct.pack("<HHIIHHIII", 0xB001, 4, 1, 2, 0xB002, 7, 32, 50, 0)
    return (
        header
        + version
        + entries
        + struct.pack("<IIIIIIII", 0x030000, 0, 0, 0, 0, size_bytes, offset, 0)
    )


def _motion_photo() -> bytes:
    """Return the start of a video, which some phones append to the image."""
    boxes = (b"ftyp", b"mp42" + bytes(4) + b"mp42"), (b"mdat", _plant("video"))
    return b"".join(struct.pack(">I", 8 + len(body)) + name + body for name, body in boxes)


def planted_png(
    image: Image.Image | None = None, orientation: int = 6, *, profile: bytes = SRGB_PROFILE
) -> bytes:
    """Return a PNG with private data everywhere that the format allows it."""
    plain = encode(image or photo(64, 48), "PNG", dpi=(72, 72))
    data = insert_chunks(
        plain,
        png_chunk(b"iCCP", _plant("icc-name") + b"\0\0" + zlib.compress(profile)),
        png_chunk(b"tEXt", b"Author\0" + _plant("tEXt")),
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(_plant("zTXt"), 0)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + planted_xmp()),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + _plant("raw-profile")),
        png_chunk(b"tEXt", b"Raw profile type iptc\0" + _plant("raw-iptc")),
        png_chunk(b"eXIf", planted_exif(orientation)),
        png_chunk(b"tIME", struct.pack(">HBBBBB", 2021, 6, 1, 12, 0, 0)),
        png_chunk(b"caBX", _plant("c2pa")),
        png_chunk(b"prVt", _plant("unknown-chunk")),
    )
    data = insert_chunks(data, png_chunk(b"tEXt", b"Late\0" + _plant("late-tEXt")), before=b"IEND")
    return data + _plant("trailer")


def planted_webp(
    data: bytes | None = None, orientation: int = 6, *, profile: bytes = SRGB_PROFILE
) -> bytes:
    """Return *data* or an animation as a WebP with private data everywhere the format allows it."""
    chunks = webp_chunks(data or animated_webp())
    header = bytearray(next(payload for name, payload in chunks if name == b"VP8X"))
    header[0] |= 0x2C
    frames = [
        (name, _plant_in_frame(body) if name == b"ANMF" else body)
        for name, body in chunks
        if name != b"VP8X"
    ]
    planted = [
        (b"VP8X", bytes(header)),
        (b"ICCP", profile),
        *frames,
        (b"EXIF", planted_exif(orientation)),
        (b"XMP ", planted_xmp()),
        (b"C2PA", _plant("c2pa")),
        (b"prVt", _plant("unknown-chunk")),
    ]
    return riff(*(webp_chunk(name, body) for name, body in planted)) + _plant("trailer")


def _plant_in_frame(body: bytes) -> bytes:
    return body + webp_chunk(b"prVt", _plant("in-frame"))


def _plant(slot: str) -> bytes:
    sentinel = f"PRIVATE-{slot}-7f3a91".encode()
    if sentinel not in SENTINELS:
        SENTINELS.append(sentinel)
    return sentinel
