"""The files of rows 1 to 23 of the service's acceptance table, and the expected outcomes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.core.pngs import GRAY, RGB
from tests.hostile.worst import noisy_png
from tests.images import (
    animated_webp,
    encode,
    insert_chunks,
    insert_segments,
    jpeg_claiming,
    jpeg_segment,
    oriented,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
    png_bomb,
    png_chunk,
    riff,
    truncated,
    webp_chunk,
    webp_chunks,
    webp_claiming,
)

JPEG, PNG, WEBP = (encode(photo(80, 60), kind) for kind in ("JPEG", "PNG", "WEBP"))
SMALL_PNG = encode(photo(32, 32), "PNG")
HEADER = slice(8, 33)  # a PNG's IHDR chunk


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file, its row in the acceptance table, and its expected outcome.

    *status* is the upload's. The job of an accepted upload (202) either completes with *warnings*
    (*code* is None) or fails at its first attempt with *code*.
    """

    row: int
    name: str
    make: Callable[[], bytes]
    status: int = 202
    code: str | None = None
    warnings: tuple[str, ...] = ()


def given(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def list_files() -> Iterator[HostileFile]:
    yield HostileFile(1, "empty", lambda: b"", 422, "file_empty")
    yield from refused_types()
    yield HostileFile(4, "PNG named like a JPEG", lambda: PNG)
    for kind, data in (("JPEG", JPEG), ("PNG", PNG), ("WebP", WEBP)):
        yield HostileFile(
            6, f"{kind} cut in half", given(truncated(data, 0.5)), 202, "image_truncated"
        )
    yield from corrupt_pngs()
    yield from too_large()
    yield from odd_shapes()
    yield from long_files()
    yield from broken_metadata()
    yield from every_coding()
    yield from polyglots()


def refused_types() -> Iterator[HostileFile]:
    files = {
        (3, "text"): b"This is not an image.",
        (3, "PHP after the magic bytes of a GIF"): b"GIF89a<?php system($_GET['c']); ?>",
        (
            5,
            "SVG",
        ): b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        (5, "EPS"): b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        (5, "PDF"): b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        (5, "DjVu"): b"AT&TFORM\0\0\0\x10DJVUINFO" + bytes(20),
        (5, "HEIC"): b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(20),
        (7, "PNG whose first byte lost its highest bit"): b"\x09" + PNG[1:],
    }
    for (row, name), data in files.items():
        yield HostileFile(row, name, given(data), 415, "type_unsupported")


def corrupt_pngs() -> Iterator[HostileFile]:
    """Yield files like those that PngSuite names ``x*``."""
    for name, place, value in (
        ("color type 1", 25, 1),
        ("color type 9", 25, 9),
        ("0 bits", 24, 0),
        ("3 bits", 24, 3),
        ("99 bits", 24, 99),
    ):
        header = bytearray(SMALL_PNG[HEADER])
        header[place - 8] = value
        data = SMALL_PNG[:8] + png_chunk(b"IHDR", bytes(header[8:-4])) + SMALL_PNG[33:]
        yield HostileFile(7, f"PNG of {name}", given(data), 202, "image_invalid")
    line_ends = PNG.replace(b"\r\n", b"\n", 1)
    yield HostileFile(
        7, "PNG whose line ends were changed", lambda: line_ends, 422, "image_invalid"
    )
    start = SMALL_PNG.index(b"IDAT") - 4
    without_pixels = SMALL_PNG[:start] + png_chunk(b"IEND")
    yield HostileFile(7, "PNG without pixels", lambda: without_pixels, 202, "image_invalid")
    bad_header = SMALL_PNG[:29] + bytes(4) + SMALL_PNG[33:]
    yield HostileFile(
        7, "PNG with a wrong checksum of its header", lambda: bad_header, 422, "image_invalid"
    )
    bad_pixels = SMALL_PNG[:-16] + bytes(4) + SMALL_PNG[-12:]
    yield HostileFile(
        7, "PNG with a wrong checksum of its pixels", lambda: bad_pixels, 202, "image_invalid"
    )


def too_large() -> Iterator[HostileFile]:
    bombs: dict[tuple[int, str], Callable[[], bytes]] = {
        (10, "PNG of 65 535 × 65 535"): lambda: png_bomb(65_535, 65_535),
        (10, "WebP of 16 384 × 16 384"): lambda: webp_claiming(16_384, 16_384),
        (11, "JPEG of 280 megapixels"): lambda: jpeg_claiming(20_000, 14_000),
    }
    for (row, name), make in bombs.items():
        yield HostileFile(row, name, make, 422, "image_too_large")
    yield HostileFile(
        10, "PNG of 65 536 × 65 536", lambda: png_bomb(65_536, 65_536), 422, "dimension_too_large"
    )
    yield HostileFile(
        10,
        "PNG with a thousandth of its pixels",
        lambda: png_bomb(7_000, 7_000),
        202,
        "image_truncated",
    )


def odd_shapes() -> Iterator[HostileFile]:
    for width, height in ((1, 16_384), (16_384, 1), (1, 1), (65_535, 1)):
        data = encode(Image.new("RGB", (width, height), "red"), "PNG")
        warnings = ("not_enlarged",) if width == 1 else ()
        yield HostileFile(13, f"PNG of {width} × {height}", given(data), warnings=warnings)


def long_files() -> Iterator[HostileFile]:
    yield HostileFile(
        14, "PNG of 5 000 frames", lambda: many_frames_png(5_000), warnings=("animation_flattened",)
    )
    yield HostileFile(
        14,
        "WebP of 5 000 frames",
        lambda: many_frames_webp(5_000),
        warnings=("animation_flattened", "not_enlarged"),
    )
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20)))
    yield HostileFile(15, "PNG with 65 texts of 1 MiB", lambda: insert_chunks(PNG, *[bomb] * 65))
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(16 << 20)))
    yield HostileFile(
        15,
        "PNG with 65 profiles of 16 MiB",
        lambda: insert_chunks(PNG, *[profile] * 65),
        warnings=("icc_invalid",),
    )
    yield HostileFile(16, "JPEG of 20 scans", lambda: many_scans(20))
    yield HostileFile(16, "JPEG of 10 000 scans", lambda: many_scans(10_000), 202, "image_invalid")
    yield HostileFile(
        16,
        "JPEG of 70 000 segments",
        lambda: insert_segments(JPEG, jpeg_segment(0xFE, b"") * 70_000),
        422,
        "image_invalid",
    )


def many_frames_png(frames: int) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 80, 60, 0, 0, 1, 100, 0, 0)
    chunks = [png_chunk(b"fcTL", control) for _ in range(frames)]
    return insert_chunks(PNG, png_chunk(b"acTL", struct.pack(">II", frames, 0)), *chunks)


def many_frames_webp(frames: int) -> bytes:
    chunks = webp_chunks(animated_webp(2, (16, 12)))
    frame = next(chunk for chunk in chunks if chunk[0] == b"ANMF")
    others = [chunk for chunk in chunks if chunk[0] != b"ANMF"]
    return riff(*(webp_chunk(*chunk) for chunk in [*others, *[frame] * frames]))


def many_scans(scans: int) -> bytes:
    data = encode(photo(80, 60), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    tables_of_next = data.index(b"\xff\xc4", first)
    repeated = data[first:tables_of_next] * (scans - data.count(b"\xff\xda"))
    return data[:first] + repeated + data[first:]


def broken_metadata() -> Iterator[HostileFile]:
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    for name, exif in (("a loop", loop), ("nonsense", b"II*\0" + b"\xff" * 60), ("nothing", b"")):
        data = insert_segments(JPEG, jpeg_segment(0xE1, b"Exif\0\0" + exif))
        yield HostileFile(17, f"EXIF with {name}", given(data))
    yield HostileFile(18, "JPEG stored sideways", lambda: oriented(photo(80, 60), 6))
    hdr = ("hdr_gain_map_dropped",)
    yield HostileFile(
        19,
        "JPEG with a second image and a gain map",
        lambda: planted_jpeg(photo(80, 60)),
        warnings=hdr,
    )
    broken = encode(photo(80, 60), "PNG", icc_profile=b"no profile")
    yield HostileFile(21, "PNG with a broken profile", lambda: broken, warnings=("icc_invalid",))
    yield HostileFile(22, "PNG with planted metadata", lambda: planted_png(photo(80, 60)))
    yield HostileFile(
        22, "WebP with planted metadata", planted_webp, warnings=("animation_flattened",)
    )


def every_coding() -> Iterator[HostileFile]:
    image = photo(80, 60)
    inverted = Image.fromarray(255 - np.asarray(image.convert("CMYK")), "CMYK")
    codings = {
        "CMYK JPEG": encode(image.convert("CMYK"), "JPEG"),
        "CMYK JPEG, inverted": encode(inverted, "JPEG"),
        "gray JPEG": encode(image.convert("L"), "JPEG"),
        "PNG of 16 bits": noisy_png(80, 60, 16, RGB),
        "gray PNG of 16 bits": noisy_png(80, 60, 16, GRAY),
        "interlaced PNG": noisy_png(80, 60, 8, RGB, interlaced=True),
        "PNG with alpha": encode(image.convert("LA"), "PNG"),
        "PNG with a transparent colour": encode(image.quantize(9), "PNG", transparency=3),
        "PNG of 1 bit": encode(image.convert("1"), "PNG"),
    }
    for name, data in codings.items():
        yield HostileFile(20, name, given(data))


def polyglots() -> Iterator[HostileFile]:
    page = b"<html><script>alert(1)</script></html>"
    archive = b"PK\x05\x06" + bytes(18)
    yield HostileFile(
        23,
        "JPEG that is also an HTML page",
        lambda: insert_segments(JPEG, jpeg_segment(0xFE, page)) + page,
    )
    yield HostileFile(23, "PNG that is also an archive", lambda: PNG + archive)
    yield HostileFile(
        23,
        "WebP that is also an HTML page",
        lambda: riff(*(webp_chunk(*c) for c in [*webp_chunks(WEBP), (b"<htm", page)])) + page,
    )
