"""Draw the example photo of README and quick start, and a diagram of what becomes of it.

``python docs/example.py`` writes docs/photo.jpg, as a phone would: stored sideways, with camera,
place and preview in its EXIF block. Then it processes that file and draws
docs/_static/before-after.svg from the result.
"""

from __future__ import annotations

import base64
import struct
from io import BytesIO
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import imageprocessor as ip

DOCS = Path(__file__).parent
PHOTO = DOCS / "photo.jpg"
DIAGRAM = DOCS / "_static" / "before-after.svg"
TEMPLATE = DOCS / "before-after.svg.template"

WIDTH, HEIGHT = 1500, 2000  #: of the upright photo, in pixels
HORIZON = 1230  #: row of the shore line, in pixels from the top
GRAIN = 2.2  #: standard deviation of the sensor noise, in levels of 255
ORIENTATION = 6  #: EXIF: turn the stored pixels 90 degrees clockwise to see them upright
LATITUDE, LONGITUDE = 46.5586, 7.9822  #: degrees north, degrees east

Pixels = NDArray[np.float32]


def draw_landscape() -> Image.Image:
    """Return a mountain lake in the morning, upright, WIDTH × HEIGHT pixels."""
    random = np.random.default_rng(seed=7)
    land = draw_sky()
    ridges = [
        # height above the shore, roughness, colour from far (hazy) to near
        (430, 190, (150, 154, 186)),
        (300, 150, (112, 122, 160)),
        (190, 110, (74, 90, 124)),
        (90, 70, (44, 62, 84)),
    ]
    for height, roughness, color in ridges:
        draw_ridge(land, random, height, roughness, np.array(color, np.float32))
    scene = add_lake(land, random)
    scene += random.standard_normal((HEIGHT, WIDTH, 1), np.float32) * GRAIN
    image = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    draw_pines(image, random)
    return image


def draw_sky() -> Pixels:
    """Return rows of sky from deep blue to peach, with the sun low on the right."""
    rows = np.array([0, 500, 900, HORIZON])
    colors = np.array([(52, 92, 152), (128, 158, 194), (244, 200, 160), (252, 218, 170)])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    sky = np.stack([np.interp(y[:, 0], rows, channel) for channel in colors.T], axis=-1)
    sky = np.repeat(sky[:, None, :], WIDTH, axis=1).astype(np.float32)
    distance = np.hypot(x - 1040, y - 700)
    glow = np.exp(-distance / 240)[..., None] * np.array([90, 62, 26], np.float32)
    disc = (distance < 58)[..., None] * np.array([255, 244, 214], np.float32)
    lit: Pixels = np.maximum(sky + glow, disc)
    return lit


def draw_ridge(
    land: Pixels, random: np.random.Generator, height: int, roughness: int, color: Pixels
) -> None:
    """Draw one mountain range into *land*, lighter towards its foot, where the haze lies."""
    crest = HORIZON - height - roughness * sum_octaves(random)
    y = np.arange(HEIGHT, dtype=np.float32)[:, None]
    depth = np.clip((y - crest[None, :]) / 420, 0, 1)
    haze = np.array([236, 208, 184], np.float32)
    shade = color + (haze - color) * (depth[..., None] ** 1.4) * 0.75
    inside = (y >= crest[None, :]) & (y < HORIZON)
    land[inside] = shade[inside]


def sum_octaves(random: np.random.Generator) -> Pixels:
    """Return a crest line of WIDTH values, about −1 to 1, whose detail falls with its frequency."""
    line = np.zeros(WIDTH, np.float32)
    for octave in range(2, 9):
        points = random.uniform(-1, 1, 2**octave + 1)
        positions = np.linspace(0, WIDTH - 1, points.size)
        line += np.interp(np.arange(WIDTH), positions, points).astype(np.float32) / 2 ** (
            octave - 2
        )
    return line / 1.4


def add_lake(land: Pixels, random: np.random.Generator) -> Pixels:
    """Return *land* with its mirror image below the horizon, darkened and rippled."""
    scene = land.copy()
    depth = HEIGHT - HORIZON
    mirrored = land[HORIZON - depth : HORIZON][::-1]
    ripple = random.standard_normal((depth, 1), np.float32).cumsum(axis=0)
    for row in range(depth):
        wave = np.sin(row * row / 900 + ripple[row, 0]) * (1 + row / 70)
        scene[HORIZON + row] = np.roll(mirrored[row], round(float(wave)), axis=0)
    blue = np.array([40, 66, 98], np.float32)
    mix = np.linspace(0.16, 0.62, depth, dtype=np.float32)[:, None, None]
    scene[HORIZON:] = scene[HORIZON:] * (1 - mix) + blue * mix
    return scene


def draw_pines(image: Image.Image, random: np.random.Generator) -> None:
    """Draw dark pines on both sides of the foreground."""
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    bank = [(0, 1905), (330, 1930), (720, 1985), (1130, 1962), (WIDTH, 1900)]
    draw.polygon([*bank, (WIDTH, HEIGHT), (0, HEIGHT)], fill=255)
    for x in [*random.integers(-20, 330, 7), *random.integers(1190, WIDTH + 20, 6)]:
        draw_pine(draw, random, int(x), 1950, int(random.integers(420, 860)))
    ink = Image.new("RGB", image.size, (17, 27, 32))
    image.paste(ink, mask=mask.filter(ImageFilter.GaussianBlur(0.8)))


def draw_pine(
    draw: ImageDraw.ImageDraw, random: np.random.Generator, x: int, foot: int, height: int
) -> None:
    """Draw one pine, in white, *height* pixels above its *foot*."""
    draw.rectangle((x - 5, foot - height + 30, x + 5, foot + 20), fill=255)
    layers = height // 26
    for layer in range(layers):
        top = foot - height + layer * 26
        half = (layer + 1) / layers * height / 5.2 * random.uniform(0.8, 1.15)
        draw.polygon(
            [(x, top), (x - half, top + 62), (x, top + 44), (x + half, top + 62)], fill=255
        )


def encode_as_phone(upright: Image.Image) -> bytes:
    """Return *upright* as a phone stores it: sideways, with camera, place and preview in EXIF."""
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Example", "Phone 12", ORIENTATION
    exif.get_ifd(0x8769)[0x9003] = "2026:06:14 06:12:40"
    exif.get_ifd(0x8825).update({1: "N", 2: (LATITUDE, 0, 0), 3: "E", 4: (LONGITUDE, 0, 0)})
    file = BytesIO()
    stored.save(file, "JPEG", quality=88, exif=add_preview(exif.tobytes(), stored))
    return file.getvalue()


def add_preview(exif: bytes, stored: Image.Image) -> bytes:
    """Return the EXIF block with a second directory that holds a small JPEG of *stored*."""
    preview = BytesIO()
    stored.resize((160, 120)).save(preview, "JPEG", quality=70)
    tiff = exif.removeprefix(b"Exif\0\0")  # big-endian, as Pillow writes it
    (first,) = struct.unpack_from(">L", tiff, 4)
    (entries,) = struct.unpack_from(">H", tiff, first)
    link = first + 2 + 12 * entries
    start = len(tiff) + 30  # behind the directory that is added here
    offset, length = (0x0201, 4, 1, start), (0x0202, 4, 1, preview.tell())
    directory = struct.pack(">H HHLL HHLL L", 2, *offset, *length, 0)
    linked = tiff[:link] + struct.pack(">L", len(tiff)) + tiff[link + 4 :]
    return b"Exif\0\0" + linked + directory + preview.getvalue()


def draw_before_and_after(photo: bytes) -> str:
    """Return an SVG: the file as it was stored, and what ``process`` made of it."""
    result = ip.process(photo)
    with Image.open(BytesIO(photo)) as stored:
        width, height = stored.size
        sideways = stored.convert("RGB").resize((560, 420), Image.Resampling.LANCZOS)
    before = BytesIO()
    sideways.save(before, "JPEG", quality=80)
    values = {
        "before": base64.b64encode(before.getvalue()).decode(),
        "after": base64.b64encode(result.variants["medium"].data).decode(),
        "stored": f"{width}×{height}",
        "bytes": show_size(len(photo)),
        "position": f"{LATITUDE:.4f}, {LONGITUDE:.4f}",
        "color": result.dominant_color,
        "removed": ", ".join(result.removed),
    }
    for name, variant in result.variants.items():
        values[name] = f"{variant.width}×{variant.height}, {show_size(variant.size_bytes)}"
    return Template(TEMPLATE.read_text("utf-8")).substitute(values)


def show_size(size_bytes: int) -> str:
    """Return a file size in kB."""
    return f"{size_bytes / 1000:.0f} kB"


def main() -> None:
    """Write the photo and the diagram."""
    photo = encode_as_phone(draw_landscape())
    PHOTO.write_bytes(photo)
    DIAGRAM.write_text(draw_before_and_after(photo), "utf-8")


if __name__ == "__main__":
    main()
