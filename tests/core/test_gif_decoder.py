from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.formats.gif import read_frames
from imageprocessor.errors import InvalidImageError, TruncatedImageError
from tests.gifs import CODE_BITS, LIMITS, PALETTE, animated_gif, blocks, control, frame, gif, loop
from tests.images import encode, photo

RED = bytes((255, 0, 0)) * 256
EXACT = [ip.VariantSpec("exact", quality=100, effort=0)]


def first_image(data: bytes) -> Image.Image:
    result = ip.process(data, EXACT, LIMITS)
    with Image.open(BytesIO(result.variants["exact"].data)) as image:
        return image.convert("RGBA")


def color(level: int) -> tuple[int, ...]:
    return (*PALETTE[3 * level : 3 * level + 3], 255)


def is_near(found: Any, wanted: Any) -> bool:
    return all(abs(a - b) <= 4 for a, b in zip(found, wanted, strict=True))


def test_the_screen_around_the_first_image_is_transparent() -> None:
    image = first_image(gif((48, 32), frame((16, 16), 200, at=(8, 4)), frame((48, 32), 9)))
    assert image.size == (48, 32)
    assert image.getchannel("A").getbbox() == (8, 4, 24, 20)
    assert is_near(image.getpixel((15, 12)), color(200))


def test_a_first_image_that_covers_the_screen_is_opaque() -> None:
    image = first_image(gif((16, 16), frame((16, 16), 200)))
    assert image.getchannel("A").getextrema() == (255, 255)
    assert is_near(image.getpixel((8, 8)), color(200))


@pytest.mark.parametrize("at", [(0, 0), (16, 16)])
def test_a_transparent_colour_is_transparent(at: tuple[int, int]) -> None:
    half = [200] * 128 + [7] * 128
    image = first_image(gif((32, 32), control(transparent=7), frame((16, 16), half, at=at)))
    x, y = at
    assert image.getchannel("A").getbbox() == (x, y, x + 16, y + 8)
    assert is_near(image.getpixel((x + 8, y + 4)), color(200))


@pytest.mark.parametrize("palette", [PALETTE, b""])
def test_a_palette_of_the_image_counts_before_that_of_the_screen(palette: bytes) -> None:
    data = gif((16, 16), frame((16, 16), 3, palette=RED), frame((16, 16), 9), palette=palette)
    assert is_near(first_image(data).getpixel((8, 8)), (255, 0, 0, 255))


@pytest.mark.parametrize("interlace", [0, 1])
def test_each_kind_of_gif_that_pillow_writes_has_its_pixels(interlace: int) -> None:
    for mode in ("L", "P", "1"):
        source = photo(40, 30).convert(mode)
        data = encode(source, "GIF", interlace=interlace)
        wanted = source.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        found = first_image(data).convert("RGB").resize((1, 1), Image.Resampling.BOX)
        assert is_near(found.getpixel((0, 0)), wanted)


def test_an_image_larger_than_the_screen_extends_it() -> None:
    image = first_image(gif((4, 4), frame((16, 16), 200, at=(16, 0))))
    assert image.size == (32, 16)
    assert image.getchannel("A").getbbox() == (16, 0, 32, 16)


def test_an_animation_becomes_its_first_image_with_a_warning() -> None:
    result = ip.process(animated_gif(), EXACT, LIMITS)
    assert result.warnings == ("animation_flattened",)
    assert is_near(first_image(animated_gif()).getpixel((4, 3)), color(0))


def test_damage_after_the_first_image_is_passed_over_with_a_warning() -> None:
    whole = gif((16, 16), frame((16, 16), 200))
    for data in (whole[:-1], whole[:-1] + b"\0nonsense", whole[:-1] + frame((16, 16), 9)[:-40]):
        result = ip.process(data, EXACT, LIMITS)
        assert result.warnings == ("end_missing",)
        with pytest.raises(TruncatedImageError):
            ip.strip_metadata(data, LIMITS)


@pytest.mark.parametrize("missing", [1, 16, 250])
def test_missing_pixels_are_refused(missing: int) -> None:
    data = gif((16, 16), frame((16, 16), [200] * (256 - missing)))
    with pytest.raises(TruncatedImageError, match="GIF ends before its last pixel"):
        first_image(data)


def test_damaged_pixels_are_refused() -> None:
    wrong_codes = b"," + bytes(4) + b"\x10\0\x10\0\0" + bytes((CODE_BITS,)) + blocks(b"\xff" * 99)
    with pytest.raises(InvalidImageError, match="GIF cannot be decoded"):
        first_image(gif((16, 16), wrong_codes))


@pytest.mark.parametrize(
    "data",
    [
        gif((65_535, 65_535), frame((1, 1), 0)),
        gif((1, 1), frame((1, 1), 0, at=(65_000, 65_000))),
        gif((1, 1), frame((1, 1), 0), frame((1, 1), 0, at=(65_000, 65_000))),
    ],
)
def test_more_pixels_than_allowed_are_refused_by_any_header(data: bytes) -> None:
    with pytest.raises(ip.TooManyPixelsError):
        ip.validate(data, LIMITS)


def test_an_animation_that_is_kept_is_drawn_as_browsers_draw_it() -> None:
    red = (255, 0, 0, 255)
    parts = [
        control(5) + frame((48, 48), 30),
        control(10, disposal=2) + frame((24, 24), 200, at=(12, 12)),
        control(7, disposal=3) + frame((24, 48), 90, at=(24, 0)),
        control(6, transparent=7)
        + frame((48, 24), [7] * 576 + [120] * 576, palette=RED, at=(0, 24)),
    ]
    spec = ip.VariantSpec("kept", animation="keep", quality=100, effort=0)
    result = ip.process(gif((48, 48), loop(2), *parts), [spec], LIMITS)
    assert result.warnings == ()
    # At the middle, at the hole that the second image leaves, at the right and at the bottom
    places = [(30, 30), (18, 18), (42, 6), (42, 42)]
    clear = (0, 0, 0, 0)
    expected = [
        (50, [color(30), color(30), color(30), color(30)]),
        (100, [color(200), color(200), color(30), color(30)]),
        (70, [color(90), clear, color(90), color(90)]),
        (60, [clear, clear, color(30), red]),
    ]
    with Image.open(BytesIO(result.variants["kept"].data)) as image:
        assert image.info["loop"] == 3, "once, and two repeats"
        for index, (milliseconds, colors) in enumerate(expected):
            image.seek(index)
            image.load()
            assert image.info["duration"] == milliseconds
            shown = image.convert("RGBA")
            for place, wanted in zip(places, colors, strict=True):
                found: Any = shown.getpixel(place)
                assert found[3] == wanted[3]
                if wanted[3]:
                    assert all(abs(a - b) <= 12 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("parts", "plays"), [([], 1), ([loop(0)], 0), ([loop(4)], 5)])
def test_a_gif_plays_once_more_than_it_repeats(parts: list[bytes], plays: int) -> None:
    data = gif((8, 6), *parts, frame((8, 6), 1), frame((8, 6), 2))
    assert read_frames(BytesIO(data)).plays == plays
