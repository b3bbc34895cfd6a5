from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imageprocessor as ip
from tests.heif import LIMITS, heif, tile

pillow_heif = pytest.importorskip("pillow_heif")

EXACT = [ip.VariantSpec("exact", quality=100, effort=0)]


def decode(data: bytes) -> Image.Image:
    result = ip.process(data, EXACT, LIMITS)
    with Image.open(BytesIO(result.variants["exact"].data)) as image:
        image.load()
        return image


def encode(mode: str, pixels: Any) -> bytes:
    height, width = pixels.shape[:2]
    file = BytesIO()
    pillow_heif.encode(mode, (width, height), pixels.tobytes(), file)
    return file.getvalue()


def test_it_decodes_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heif("HEIC", tile("HEIC"))
    given = []
    load_file = pillow_heif.heif._pillow_heif.load_file

    def capture(*arguments: object) -> object:
        given.append(arguments)
        return load_file(*arguments)

    monkeypatch.setattr(pillow_heif.heif._pillow_heif, "load_file", capture)
    ip.process(data, EXACT, LIMITS)
    [(_, threads, *_)] = given
    assert threads == 1


def test_nothing_changes_how_other_programs_open_images() -> None:
    ip.process(heif("HEIC", tile("HEIC")), EXACT, LIMITS)
    assert not [name for name in Image.OPEN if name.startswith("HE")]


@pytest.mark.parametrize("level", [0, 100, 200])
def test_gray_of_ten_bits_keeps_its_levels(level: int) -> None:
    image = decode(encode("L;16", np.full((64, 64), level << 8, np.uint16)))
    assert np.allclose(np.asarray(image.convert("L")), level, atol=2)


def test_colours_of_ten_bits_keep_their_levels() -> None:
    pixels = np.full((64, 64, 3), (200 << 8, 100 << 8, 30 << 8), np.uint16)
    found = np.asarray(decode(encode("RGB;16", pixels)))
    assert np.allclose(found, (200, 100, 30), atol=4)


def test_colours_that_are_multiplied_by_their_alpha_are_divided_again() -> None:
    image = decode(encode("RGBa", np.full((64, 64, 4), (50, 30, 10, 100), np.uint8)))
    assert np.allclose(np.asarray(image), (128, 77, 26, 100), atol=5)
