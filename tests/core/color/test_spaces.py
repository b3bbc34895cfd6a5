"""What a file declares about its colours: conversions compared with matrices in numpy."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageprocessor.core.color.conversion import to_srgb
from imageprocessor.core.color.icc import Chromaticities, gamma_curve
from imageprocessor.core.color.spaces import ADOBE_RGB, ColorSpace, adobe_rgb_exif, is_adobe_rgb
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.limits import Limits
from imageprocessor.core.metadata import read_metadata, strip_metadata
from imageprocessor.core.pipeline import process
from imageprocessor.core.validate import validate
from tests.core.pngs import RGB, row_png, samples16
from tests.images import encode, insert_chunks, photo, png_chunk

D65, C, DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
BT_709 = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT_2020 = (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
BT_470_M = (C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08))
ADOBE = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB, PQ, HLG = 13, 16, 18
COLORS = np.random.default_rng(0).integers(0, 256, (512, 3), dtype=np.uint8)
GRAYS = np.arange(256, dtype=np.uint8)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def picture(colors: Any = COLORS, mode: str = "RGB") -> Image.Image:
    return Image.frombytes(mode, (len(colors), 1), colors.tobytes())


def png(*chunks: bytes, colors: Any = COLORS, mode: str = "RGB") -> bytes:
    return insert_chunks(encode(picture(colors, mode), "PNG"), *chunks)


def cicp(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return png_chunk(b"cICP", bytes((primaries, transfer, matrix, full_range)))


def gama(exponent: float) -> bytes:
    return png_chunk(b"gAMA", round(100_000 / exponent).to_bytes(4))


def chrm(*points: tuple[float, float]) -> bytes:
    values = [round(100_000 * value) for point in points for value in point]
    return png_chunk(b"cHRM", struct.pack(">8I", *values))


def iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))


def space_profile(primaries: Any, exponent: float, mode: str = "RGB") -> bytes:
    return ColorSpace(Chromaticities(*primaries), gamma_curve(exponent)).profile(mode)


def converted(data: bytes) -> tuple[Any, tuple[str, ...]]:
    info = validate(data)
    image = decode(unpack(io.BytesIO(data), info), info, Limits())
    result, warnings = to_srgb(image)
    return np.asarray(result)[0].astype(int), warnings


def to_xyz(points: Any) -> Any:
    """Return the matrix from linear RGB to XYZ adapted to D65."""
    white, *primaries = (np.array((x / y, 1, (1 - x - y) / y)) for x, y in points)
    columns = np.array(primaries).T
    scaled = columns * np.linalg.solve(columns, white)
    x, y = D65
    ratios = (BRADFORD @ (x / y, 1, (1 - x - y) / y)) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(ratios) @ BRADFORD @ scaled


def in_srgb(light: Any, primaries: Any) -> Any:
    linear = light @ (np.linalg.inv(to_xyz(BT_709)) @ to_xyz(primaries)).T
    clipped = np.clip(linear, 0, 1)
    curved = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return 255 * curved


def srgb_light(levels: Any) -> Any:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def bt_709_light(levels: Any) -> Any:
    return np.where(levels < 0.081, levels / 4.5, ((levels + 0.099) / 1.099) ** (1 / 0.45))


@pytest.mark.parametrize(
    ("chunk", "primaries", "light"),
    [
        pytest.param(cicp(12, SRGB), P3, srgb_light, id="Display P3"),
        pytest.param(cicp(11, SRGB), (DCI, *P3[1:]), srgb_light, id="DCI white"),
        pytest.param(cicp(9, 14), BT_2020, bt_709_light, id="BT.2020"),
        pytest.param(cicp(1, 1), BT_709, bt_709_light, id="BT.709"),
        pytest.param(cicp(1, 8), BT_709, lambda levels: levels, id="linear"),
        pytest.param(cicp(4, 4), BT_470_M, lambda levels: levels**2.2, id="BT.470 M"),
        pytest.param(cicp(1, SRGB), BT_709, srgb_light, id="sRGB"),
        pytest.param(gama(1.0), BT_709, lambda levels: levels, id="gAMA 1"),
        pytest.param(gama(1.8), BT_709, lambda levels: levels**1.8, id="gAMA 1.8"),
        pytest.param(chrm(*P3), P3, srgb_light, id="cHRM"),
    ],
)
def test_declared_colors_are_converted(chunk: bytes, primaries: Any, light: Any) -> None:
    pixels, warnings = converted(png(chunk))
    expected = in_srgb(light(COLORS / 255), primaries)
    assert np.abs(pixels - expected).max() <= 1.6
    assert warnings == ()


def test_gamma_and_primaries_count_together() -> None:
    pixels, _ = converted(png(gama(2.2), chrm(*P3)))
    assert np.abs(pixels - in_srgb((COLORS / 255) ** 2.2, P3)).max() <= 1.6


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(2.2)],
        [gama(1 / 0.45)],
        [chrm(*BT_709)],
        [gama(2.2), chrm(*BT_709)],
        [gama(2.2), chrm((0.31269, 0.32899), (0.63999, 0.33001), (0.3, 0.6), (0.15, 0.05999))],
        [png_chunk(b"sRGB", b"\0")],
    ],
)
def test_values_that_srgb_files_have_change_nothing(chunks: list[bytes]) -> None:
    pixels, _ = converted(png(*chunks))
    assert (pixels == COLORS).all()


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_gray_is_converted(mode: str) -> None:
    colors = GRAYS if mode == "L" else np.stack([GRAYS, GRAYS], axis=-1)
    for chunk in (gama(1.0), cicp(12, 8)):
        pixels, warnings = converted(png(chunk, colors=colors, mode=mode))
        expected = in_srgb(np.repeat(GRAYS[:, None] / 255, 3, axis=1), BT_709)
        assert np.abs(pixels[:, :3] - expected).max() <= 1
        assert warnings == ()


def test_palettes_are_converted() -> None:
    data = insert_chunks(encode(photo(64, 1).quantize(64), "PNG"), gama(1.0), before=b"PLTE")
    plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[0]
    assert np.abs(converted(data)[0] - in_srgb(plain / 255, BT_709)).max() <= 1


def test_the_order_is_cicp_profile_srgb_gamma() -> None:
    chunks = [
        cicp(9, 8),
        iccp(space_profile(P3, 1.4)),
        png_chunk(b"sRGB", b"\1"),
        gama(1.0),
    ]
    for preferred in range(4):
        declared = chunks[preferred:]
        alone = converted(png(declared[0]))[0]
        for order in (declared, declared[::-1]):
            assert (converted(png(*order))[0] == alone).all()


@pytest.mark.parametrize(
    "damaged",
    [
        png_chunk(b"iCCP", b"name\0\0not deflate"),
        iccp(b"no profile"),
        iccp(space_profile(BT_709, 1.0, mode="L")),
    ],
)
def test_the_next_declaration_counts_if_the_profile_is_unusable(damaged: bytes) -> None:
    pixels, warnings = converted(png(damaged, gama(1.0)))
    assert (pixels == converted(png(gama(1.0)))[0]).all()
    assert warnings == ("icc_invalid",)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"cICP", b"\x0c\x0d\0"),
        cicp(2, SRGB),
        cicp(12, 2),
        cicp(12, 9),
        cicp(12, SRGB, matrix=1),
        cicp(12, SRGB, full_range=2),
        png_chunk(b"gAMA", b""),
        png_chunk(b"gAMA", bytes(4)),
        png_chunk(b"gAMA", b"\0\0\0\1"),
        png_chunk(b"gAMA", b"\xff" * 4),
        png_chunk(b"gAMA", bytes(5)),
        png_chunk(b"cHRM", b""),
        png_chunk(b"cHRM", bytes(32)),
        png_chunk(b"cHRM", b"\xff" * 32),
        png_chunk(b"cHRM", b"\0\0\0\1" * 8),
        png_chunk(b"cHRM", bytes(31)),
        chrm(D65, D65, D65, D65),
        png_chunk(b"sRGB", b""),
        gama(1.0)[:-1] + b"!",
    ],
)
def test_a_declaration_that_cannot_be_applied_is_ignored(chunk: bytes) -> None:
    pixels, warnings = converted(png(chunk))
    assert (pixels == COLORS).all()
    assert warnings == ()


def test_narrow_range_ends_at_16_and_235() -> None:
    levels = np.array([0, 16, 126, 235, 255], np.uint8)
    pixels, _ = converted(png(cicp(1, SRGB, full_range=0), colors=levels, mode="L"))
    assert np.abs(pixels[:, 0] - (0, 0, 128, 255, 255)).max() <= 1


# High dynamic range


def pq_level(nits: float) -> float:
    power = (nits / 10_000) ** (2610 / 16384)
    ratio = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return float(ratio ** (2523 / 32))


def hlg_level(nits: float) -> float:
    scene = (nits / 1000) ** (1 / 1.2)
    if scene <= 1 / 12:
        return float((3 * scene) ** 0.5)
    return float(0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("transfer", "level_of"), [(PQ, pq_level), (HLG, hlg_level)])
def test_high_dynamic_range_is_cut_off_at_white_paper(
    transfer: int, level_of: Any, depth: int
) -> None:
    nits = (0, 1, 10, 50, 100, 203, 400, 1000)
    most = 2**depth - 1
    levels = [round(most * level_of(value)) for value in nits]
    grays = [level for level in levels for _ in range(3)]
    row = bytes(grays) if depth == 8 else samples16(*grays)
    data = row_png(len(nits), depth, RGB, row, cicp(9, transfer))
    expected = in_srgb(np.array(nits)[:, None] / 203 * np.ones(3), BT_2020)
    # One level of 8 bits in HDR is up to three levels of sRGB.
    assert np.abs(converted(data)[0] - expected).max() <= (4 if depth == 8 else 1)
    assert "hdr_flattened" in process(data).warnings


def test_standard_dynamic_range_has_no_warning_of_hdr() -> None:
    for chunk in (cicp(9, 14), gama(1.0)):
        assert "hdr_flattened" not in process(png(chunk)).warnings


# Adobe RGB in EXIF


def interoperability(index: str, color_space: int = 0xFFFF) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = color_space
    exif.get_ifd(0x8769)[0xA005] = {1: index, 2: b"0100"}
    return exif.tobytes().removeprefix(b"Exif\0\0")


def with_exif(image: Image.Image, image_format: str, exif: bytes, **options: Any) -> bytes:
    prefix = b"Exif\0\0" if image_format == "JPEG" else b""
    return encode(image, image_format, exif=prefix + exif, **options)


R03 = interoperability("R03")
EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("image_format", EXACT)
def test_photos_that_a_camera_marked_as_adobe_rgb_are_converted(image_format: str) -> None:
    image = Image.new("RGB", (16, 16), (40, 180, 90))
    data = with_exif(image, image_format, R03, **EXACT[image_format])
    expected = in_srgb((np.array((40, 180, 90)) / 255) ** (563 / 256), ADOBE)
    assert np.abs(converted(data)[0][8] - expected).max() <= 3


def test_the_mark_of_a_gray_photo_and_of_cmyk() -> None:
    for mode in ("L", "CMYK"):
        image = Image.new(mode, (16, 16))
        assert converted(with_exif(image, "JPEG", R03))[1] == ()


@pytest.mark.parametrize(
    "exif",
    [interoperability("R98"), interoperability("R03", color_space=1), b"", b"nonsense", R03[:40]],
)
def test_other_photos_are_not_adobe_rgb(exif: bytes) -> None:
    assert not is_adobe_rgb(exif)


@pytest.mark.parametrize("chunk", [png_chunk(b"sRGB", b"\0"), gama(2.2), cicp(1, SRGB)])
def test_chunks_of_a_png_count_before_exif(chunk: bytes) -> None:
    assert (converted(png(chunk, png_chunk(b"eXIf", R03)))[0] == COLORS).all()


def test_a_profile_counts_before_exif_unless_it_is_unusable() -> None:
    image = Image.new("RGB", (16, 16), (40, 180, 90))
    marked = with_exif(image, "JPEG", R03)
    broken = with_exif(image, "JPEG", R03, icc_profile=b"broken")
    tagged = encode(image, "JPEG", icc_profile=ADOBE_RGB.profile("RGB"))
    assert (converted(marked)[0] == converted(tagged)[0]).all()
    assert (converted(broken)[0] == converted(tagged)[0]).all()
    linear = space_profile(BT_709, 1.0)
    both = with_exif(image, "JPEG", R03, icc_profile=linear)
    alone = encode(image, "JPEG", icc_profile=linear)
    assert (converted(both)[0] == converted(alone)[0]).all()


@pytest.mark.parametrize("image_format", EXACT)
@pytest.mark.parametrize("orientation", [1, 6])
def test_strip_metadata_keeps_the_mark(image_format: str, orientation: int) -> None:
    tagged = adobe_rgb_exif(orientation)
    image = Image.new("RGB", (16, 16), (40, 180, 90))
    data = with_exif(image, image_format, tagged, **EXACT[image_format])
    stripped = strip_metadata(data)
    assert tagged in stripped
    assert read_metadata(stripped).orientation == orientation
    assert (converted(stripped)[0] == converted(data)[0]).all()
