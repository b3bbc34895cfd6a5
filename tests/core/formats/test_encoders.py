"""The encoders of all output formats."""

from __future__ import annotations

import json
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from imageprocessor.core.formats import avif_encoder, jpeg
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.core.memory import require_memory
from imageprocessor.errors import InvalidVariantError
from tests.conftest import require_program
from tests.images import SRGB_PROFILE, photo, planted_exif, planted_xmp

each_output = pytest.mark.parametrize("output", OUTPUT_FORMATS)
GOOD = Encoding(quality=95, effort=4)
BARE_GROUPS = {"SourceFile", "ExifTool", "File", "RIFF", "Composite", "JFIF", "PNG", "QuickTime"}
HARMLESS = {"Meta:PrimaryItemReference"}


def encode(image: Image.Image, output: str, encoding: Encoding = GOOD) -> bytes:
    encoder = OUTPUT_FORMATS[output].encode
    assert encoder is not None
    return encoder(image, encoding)


def translucent(width: int = 60, height: int = 40) -> Image.Image:
    image = photo(width, height)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    levels = [np.asarray(image).astype(int) for image in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


@each_output
def test_the_file_shows_the_image(output: str) -> None:
    smooth = photo(60, 40).reduce(2).resize((60, 40))
    with Image.open(BytesIO(encode(smooth, output))) as opened:
        assert (opened.format, opened.mode) == (OUTPUT_FORMATS[output].name, "RGB")
        assert difference(opened, smooth) < (0.001 if output == "png" else 4)


@pytest.mark.parametrize("output", ["avif", "webp", "png"])
def test_transparency_is_kept(output: str) -> None:
    image = translucent()
    with Image.open(BytesIO(encode(image, output))) as opened:
        assert opened.mode == "RGBA"
        assert difference(opened.getchannel("A"), image.getchannel("A")) < 2


def test_a_jpeg_is_white_where_the_image_is_transparent() -> None:
    image = Image.new("RGBA", (32, 16), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (16, 0, 32, 16))
    with Image.open(BytesIO(encode(image, "jpeg"))) as opened:
        assert difference(opened.crop((0, 0, 8, 16)), Image.new("RGB", (8, 16), "white")) < 2
        assert difference(opened.crop((24, 0, 32, 16)), Image.new("RGB", (8, 16), "#c80000")) < 3


def test_a_jpeg_is_progressive() -> None:
    with Image.open(BytesIO(encode(photo(60, 40), "jpeg"))) as opened:
        assert opened.info["progressive"] == 1
    assert not jpeg.is_arithmetic(encode(photo(60, 40), "jpeg"))


@pytest.mark.parametrize("quality", [94, 95, 100])
def test_pure_noise_fits_in_a_jpeg_of_any_quality(quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (256, 256, 3)) * 255
    image = Image.fromarray(noise.astype(np.uint8))
    with Image.open(BytesIO(encode(image, "jpeg", Encoding(quality, 4)))) as opened:
        assert opened.size == (256, 256)


@pytest.mark.parametrize("output", ["avif", "webp", "jpeg"])
def test_a_lower_quality_makes_smaller_files(output: str) -> None:
    sizes = [len(encode(photo(60, 40), output, Encoding(each, 4))) for each in (30, 60, 90)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("output", ["avif", "webp", "png"])
def test_effort_changes_the_file(output: str) -> None:
    image = photo(120, 80)
    files = {encode(image, output, Encoding(60, effort)) for effort in (0, 4, 6)}
    assert len(files) == 3
    assert all(encode(image, output, Encoding(60, effort)) for effort in range(7))


def test_nothing_of_the_images_info_reaches_a_file(tmp_path: Path) -> None:
    bare, image = photo(60, 40), photo(60, 40)
    image.info = {
        "icc_profile": SRGB_PROFILE,
        "exif": b"Exif\0\0" + planted_exif(),
        "xmp": planted_xmp(),
        "comment": b"PRIVATE",
        "dpi": (300, 300),
        "transparency": (1, 2, 3),
        "timestamp": 7,
    }
    paths = []
    for output in OUTPUT_FORMATS:
        data = encode(image, output)
        assert data == encode(bare, output)
        paths.append(tmp_path / output)
        paths[-1].write_bytes(data)
    command = [require_program("exiftool"), "-j", "-G", "-a", "-u", *map(str, paths)]
    tags = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(tags) == len(paths)
    for found in tags:
        assert {name.partition(":")[0] for name in found.keys() - HARMLESS} <= BARE_GROUPS
        assert not [name for name in found if name.startswith("QuickTime:") and "Date" in name]


def test_an_avif_needs_a_pillow_that_can_encode_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(InvalidVariantError, match=r"Install pillow>=13, or use another format"):
        encode(photo(8, 8), "avif")


def test_the_memory_for_an_avif_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(size_bytes: int, purpose: str) -> None:
        asked.append(size_bytes)
        require_memory(1 << 60, purpose)

    monkeypatch.setattr(avif_encoder, "require_memory", refuse)
    with pytest.raises(MemoryError, match="to encode an AVIF"):
        encode(photo(100, 100), "avif")
    assert asked[0] >= 100 * 100 * 29
