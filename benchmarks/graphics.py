"""Draw the graphics for the benchmarks: screenshots, charts, logos, pixel art and scans."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = [
    "image",
    "size",
    "format",
    "quality",
    "upload",
    "photo",
    "width",
    "height",
    "colour",
    "pixel",
    "page",
    "event",
]
COLORS = ("#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#abb2bf")


def draw_screenshot(width: int = 1280, height: int = 800, seed: int = 1) -> Image.Image:
    """Draw lines of coloured text on a dark background, as an editor shows them."""
    chance = random.Random(seed)
    image = Image.new("RGB", (width, height), "#282c34")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    for top in range(8, height - 16, 20):
        left = 16 + 24 * chance.randrange(4)
        while left < width * 0.8 and chance.random() < 0.9:
            word = chance.choice(WORDS)
            draw.text((left, top), word, chance.choice(COLORS), font)
            left += round(draw.textlength(word, font)) + 8
    return image


def draw_interface(width: int = 1024, height: int = 640, seed: int = 1) -> Image.Image:
    """Draw a window with a list, buttons and black text on light panels."""
    chance = random.Random(seed)
    image = Image.new("RGB", (width, height), "#f3f4f6")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    draw.rectangle((0, 0, width, 40), "#1f2937")
    draw.text((16, 10), " ".join(chance.choices(WORDS, k=4)), "white", font)
    draw.rectangle((0, 40, 200, height), "#e5e7eb")
    for top in range(60, height - 60, 44):
        draw.text((20, top), chance.choice(WORDS), "#374151", font)
        draw.rounded_rectangle((224, top - 8, width - 24, top + 28), 6, "white", "#d1d5db")
        draw.text((240, top), " ".join(chance.choices(WORDS, k=9)), "black", font)
        button = (width - 120, top - 4, width - 36, top + 24)
        draw.rounded_rectangle(button, 6, chance.choice(COLORS))
        draw.text((width - 104, top), chance.choice(WORDS), "white", font)
    return image


def draw_chart(width: int = 640, height: int = 400, seed: int = 1) -> Image.Image:
    """Draw bars and a smooth line with axes and labels on white."""
    chance = random.Random(seed)
    large = Image.new("RGB", (2 * width, 2 * height), "white")
    draw = ImageDraw.Draw(large)
    font = ImageFont.load_default(26)
    bottom, step = 2 * height - 60, 2 * (width - 40) // 12
    points = []
    for number in range(12):
        left, top = 60 + number * step, chance.randrange(60, bottom - 20)
        draw.rectangle((left, top, left + step * 2 // 3, bottom), COLORS[number % 3])
        draw.text((left, bottom + 8), str(number + 1), "black", font)
        points.append((left + step // 3, chance.randrange(40, bottom)))
    draw.line(points, "#c00000", 6, joint="curve")
    draw.line((50, 20, 50, bottom, 2 * width - 20, bottom), "black", 4)
    return large.resize((width, height), Image.Resampling.LANCZOS)  # smooth edges


def draw_logo(side: int = 160, seed: int = 1) -> Image.Image:
    """Draw a ring and a letter with smooth edges on a transparent background."""
    chance = random.Random(seed)
    first, second = chance.sample(COLORS, 2)
    large = Image.new("RGBA", (4 * side, 4 * side))
    draw = ImageDraw.Draw(large)
    draw.ellipse((20, 20, 4 * side - 20, 4 * side - 20), first)
    draw.ellipse((4 * side // 5, 4 * side // 5, 16 * side // 5, 16 * side // 5), second)
    letter, font = chance.choice("ABGKMQRS"), ImageFont.load_default(2 * side)
    draw.text((2 * side, 2 * side), letter, "white", font, anchor="mm")
    return large.resize((side, side), Image.Resampling.LANCZOS)


def draw_pixel_art(cells: int = 32, scale: int = 8, seed: int = 1) -> Image.Image:
    """Draw a symmetric figure of few colours, each pixel as a square."""
    chance = random.Random(seed)
    image = Image.new("RGB", (cells, cells), "#1b1f2a")
    for x in range(cells // 2):
        for y in range(cells):
            if chance.random() < 0.5:
                for column in (x, cells - 1 - x):
                    image.putpixel((column, y), _to_rgb(chance.choice(COLORS)))
    return image.resize((cells * scale, cells * scale), Image.Resampling.NEAREST)


def draw_scan(width: int = 800, height: int = 600, seed: int = 1) -> Image.Image:
    """Draw a page of text in black and white, its edges a little rough."""
    chance = random.Random(seed)
    page = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(16)
    for top in range(20, height - 30, 22):
        draw.text((30, top), " ".join(chance.choices(WORDS, k=width // 60)), 0, font)
    grain = np.random.default_rng(seed).normal(128, 60, (height, width)).clip(0, 255)
    rough = Image.fromarray(grain.astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    return Image.blend(page, rough, 0.2).point(lambda level: 255 * (level > 128), "1")


DRAWN: tuple[tuple[str, Callable[[int], Image.Image]], ...] = (
    ("screenshot", lambda seed: draw_screenshot(seed=seed)),
    ("small screenshot", lambda seed: draw_screenshot(400, 300, seed)),
    ("interface", lambda seed: draw_interface(seed=seed)),
    ("chart", lambda seed: draw_chart(seed=seed)),
    ("logo", lambda seed: draw_logo(seed=seed)),
    ("icon", lambda seed: draw_logo(48, seed)),
    ("pixel art", lambda seed: draw_pixel_art(seed=seed)),
    ("sprite", lambda seed: draw_pixel_art(16, 1, seed)),
    ("scan", lambda seed: draw_scan(seed=seed)),
)
"""The kinds of graphics and how to draw one."""


def encode_graphics(count: int = 2) -> dict[str, bytes]:
    """Return *count* graphics of each kind as PNG files."""
    files = {}
    for kind, draw in DRAWN:
        for seed in range(1, count + 1):
            file = BytesIO()
            draw(seed).save(file, "PNG")
            files[f"{kind} {seed}"] = file.getvalue()
    return files


def _to_rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
