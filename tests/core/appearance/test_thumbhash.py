from __future__ import annotations

import hashlib
import json
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from PIL import Image

from imageprocessor.core.appearance import thumbhash
from tests.conftest import require_program

#: What the reference implementation, the npm package thumbhash 0.1.1, returns for `noise`.
REFERENCE = {
    ("RGB", 32, 24): "4AcCDYJqcEx5d2eaeValfZrf52gO",
    ("RGB", 24, 32): "4PcBDQKdmfZTNUVHJYsWt1ZfT2aQ",
    ("RGB", 31, 32): "3/cBBwKAJ9Nlk5J4NlfeS1ukA/pKDA4G",
    ("RGB", 7, 30): "IPgFCgSfSLV3qpZSsJN2YFg=",
    ("RGB", 100, 3): "H/gBCYSXObtDV0H1bA2NB4g=",
    ("RGBA", 32, 24): "HviBDIAH9Rebhmv5CzdZW6fwdY0nWmZHCw==",
    ("RGBA", 20, 29): "IPiBAwIIanqpqQf6jEWwu3ZoZIqKtZA=",
}
PROGRAM = """
import { rgbaToThumbHash } from "thumbhash";
const images = JSON.parse(process.argv[2]);
const hash = ([width, height, pixels]) =>
  rgbaToThumbHash(width, height, Buffer.from(pixels, "base64"));
console.log(JSON.stringify(images.map((each) => Buffer.from(hash(each)).toString("base64"))));
"""


def noise(mode: str, width: int, height: int) -> Image.Image:
    """Return an image of noise, always the same for the same arguments."""
    seed = f"{mode} {width} {height}".encode()
    pixels = hashlib.shake_128(seed).digest(len(mode) * width * height)
    return Image.frombytes(mode, (width, height), pixels)


def encode(image: Image.Image) -> str:
    return b64encode(thumbhash.encode(image)).decode()


@pytest.mark.parametrize(("mode", "width", "height"), REFERENCE)
def test_bytes_are_those_of_the_reference(mode: str, width: int, height: int) -> None:
    assert encode(noise(mode, width, height)) == REFERENCE[mode, width, height]


def test_reference_returns_the_bytes_in_the_table(tmp_path: Path) -> None:
    node, npm = require_program("node"), require_program("npm")
    options = ["--no-audit", "--no-fund", "--prefix", str(tmp_path)]
    subprocess.run([npm, "install", *options, "thumbhash@0.1.1"], check=True, timeout=120)
    program = tmp_path / "hash.mjs"
    program.write_text(PROGRAM)
    images = []
    for mode, width, height in REFERENCE:
        pixels = noise(mode, width, height).convert("RGBA").tobytes()
        images.append((width, height, b64encode(pixels).decode()))
    command = [node, str(program), json.dumps(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == list(REFERENCE.values())


@pytest.mark.parametrize("size", [(31, 9), (32, 32)])
@pytest.mark.parametrize("color", [(0, 0, 0, 0), (255, 255, 255, 255), (9, 200, 7, 99)])
def test_flat_images_keep_their_mean_colour(
    size: tuple[int, int], color: tuple[int, int, int, int]
) -> None:
    """The header has luminance, yellow minus blue, red minus green, and whether there is alpha."""
    header = int.from_bytes(thumbhash.encode(Image.new("RGBA", size, color))[:3], "little")
    red, green, blue = (level / 255 if color[3] else 0 for level in color[:3])
    assert (header & 63) / 63 == pytest.approx((red + green + blue) / 3, abs=0.01)
    assert (header >> 6 & 63) / 31.5 - 1 == pytest.approx((red + green) / 2 - blue, abs=0.02)
    assert (header >> 12 & 63) / 31.5 - 1 == pytest.approx(red - green, abs=0.02)
    assert header >> 18 & 31 == 0
    assert header >> 23 == (color[3] < 255)
