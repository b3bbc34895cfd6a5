"""Animations: each frame is drawn as browsers draw it, and a size that keeps them moves."""

from __future__ import annotations

import struct
import weakref
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.animation import Animation, open_animation
from imageprocessor.core.decode import unpack
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.validate import validate
from imageprocessor.core.webp_encoder import encode_frames
from tests.animations import SIDE, Step, apng, webp
from tests.core.color.test_conformance import P3, SRGB_CURVE, rgb_profile
from tests.images import apng as photo_apng
from tests.images import encode, insert_chunks, photo, png_chunk, truncated

RED, LIME, BLUE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
CLEAR, GLASS = (0, 0, 0, 0), (0, 0, 255, 128)
CORNER, MIDDLE = (2, 2), (8, 8)
INNER = (4, 4, 8, 8)

MAKERS = {"APNG": apng, "WebP": webp}
MOVING = [Step("red"), Step("lime", INNER), Step("blue", (0, 0, 4, 4))]
KEEP = ip.VariantSpec("all", animation="keep", quality=100)


def opened(data: bytes) -> Animation:
    file = BytesIO(data)
    limits = ip.Limits()
    info = validate(file, limits)
    animation = open_animation(file, info, unpack(file, info), limits)
    assert animation is not None
    return animation


def drawn(data: bytes) -> list[Image.Image]:
    """Return the canvas after each frame of a file."""
    return [image.convert("RGBA") for image in opened(data).draw()]


def kept(data: bytes, operations: str = "") -> Image.Image:
    """Return the WebP animation that *data* becomes, opened."""
    variant = ip.transform(data, f"{operations},anim_keep,q_100".strip(","))
    image = Image.open(BytesIO(variant.data))
    frames = getattr(image, "n_frames", 1)
    assert (image.format, image.size) == ("WEBP", (variant.width, variant.height))
    assert variant.frames == frames
    return image


def pixel(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    value = image.getpixel(place)
    assert isinstance(value, tuple)
    return value


def on_gray(image: Image.Image) -> Any:
    """Return the levels of an image on a background that shows its alpha."""
    shown = Image.new("RGBA", image.size, "gray")
    shown.alpha_composite(image)
    return np.asarray(shown.convert("RGB")).astype(int)


def list_frames(image: Image.Image) -> list[Image.Image]:
    frames = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        frames.append(image.convert("RGBA"))
    return frames


def list_delays(image: Image.Image) -> list[int]:
    delays = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        delays.append(image.info["duration"])
    return delays


DRAWN = {
    "over what is there": ([Step("red"), Step("lime", INNER)], RED, LIME),
    "over, and transparent": ([Step("red"), Step(CLEAR, INNER)], RED, RED),
    "over, and translucent": ([Step("red"), Step(GLASS, INNER)], RED, (127, 0, 128, 255)),
    "over nothing, and translucent": ([Step(CLEAR), Step(GLASS, INNER)], CLEAR, GLASS),
    "instead of what is there": ([Step("red"), Step(CLEAR, INNER, blends=False)], RED, CLEAR),
    "after one that is cleared": (
        [Step("red", disposal="clear"), Step("lime", INNER)],
        CLEAR,
        LIME,
    ),
    "after a part that is cleared": (
        [Step("red"), Step("lime", INNER, disposal="clear"), Step("blue", (0, 0, 4, 4))],
        BLUE,
        CLEAR,
    ),
}
RESTORED = {
    "after one that is taken back": (
        [Step("red"), Step("lime", INNER, disposal="restore"), Step("blue", (0, 0, 4, 4))],
        BLUE,
        RED,
    ),
    "after a first one that is taken back": (
        [Step("red", disposal="restore"), Step("lime", INNER)],
        CLEAR,
        LIME,
    ),
    "after two that are taken back": (
        [
            Step("red"),
            Step("lime", INNER, disposal="restore"),
            Step("blue", INNER, disposal="restore"),
            Step(CLEAR, (0, 0, 4, 4), blends=False),
        ],
        CLEAR,
        RED,
    ),
}
CASES = [
    *((kind, name, *case) for kind in MAKERS for name, case in DRAWN.items()),
    *(("APNG", name, *case) for name, case in RESTORED.items()),
]


@pytest.mark.parametrize(
    ("kind", "steps", "corner", "middle"),
    [pytest.param(kind, *case, id=f"{kind} {name}") for kind, name, *case in CASES],
)
def test_last_frame_is_drawn(
    kind: str,
    steps: list[Step],
    corner: tuple[int, int, int, int],
    middle: tuple[int, int, int, int],
) -> None:
    *_, last = drawn(MAKERS[kind](steps))
    for place, expected in ((CORNER, corner), (MIDDLE, middle)):
        found = pixel(last, place)
        assert found[3] == expected[3]
        assert np.abs(np.subtract(found, expected)).max() <= 1 or expected[3] == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_every_frame_of_a_size_shows_what_the_source_does(kind: str) -> None:
    ball = Image.new("RGBA", (24, 24), (240, 180, 20, 255))
    background = photo(16, 12).resize((64, 48), Image.Resampling.BICUBIC)
    steps = [Step(background.convert("RGBA"), (0, 0, 64, 48), blends=False)]
    steps += [Step(ball, (4 * index, 12, 24, 24)) for index in range(5)]
    data = MAKERS[kind](steps, size=(64, 48))
    frames = list_frames(kept(data, "w_32"))
    assert len(frames) == 6
    for frame, whole in zip(frames, drawn(data), strict=True):
        expected = whole.convert("RGB").resize((32, 24), Image.Resampling.LANCZOS)
        difference = np.abs(np.asarray(frame.convert("RGB"), int) - np.asarray(expected, int))
        assert difference.mean() < 6  # one frame later, it is 11


DELAYS = {0: 100, 1: 100, 10: 100, 11: 11, 40: 40, 2000: 2000}


@pytest.mark.parametrize("kind", MAKERS)
def test_delays_are_those_of_browsers(kind: str) -> None:
    colours = ("red", "lime", "blue", "white", "black", "gray")
    steps = [Step(color, milliseconds=delay) for color, delay in zip(colours, DELAYS, strict=True)]
    data = MAKERS[kind](steps)
    assert list_delays(kept(data)) == list(DELAYS.values())
    (variant,) = ip.process(data, [KEEP]).variants.values()
    assert variant.describe()["duration_seconds"] == 2.351


def test_fractions_of_a_millisecond_do_not_add_up() -> None:
    data = apng([Step("red" if index % 2 else "blue") for index in range(30)])
    data = insert_chunks(data[:33] + repeat_delay(data[33:], 1, 30), before=b"acTL")
    assert sum(list_delays(kept(data))) == 1000


def repeat_delay(chunks: bytes, numerator: int, denominator: int) -> bytes:
    """Return PNG chunks in which each fcTL has this delay."""
    changed = []
    position = 0
    while position < len(chunks):
        length = int.from_bytes(chunks[position : position + 4])
        name = chunks[position + 4 : position + 8]
        payload = chunks[position + 8 : position + 8 + length]
        if name == b"fcTL":
            payload = payload[:20] + struct.pack(">HH", numerator, denominator) + payload[24:]
        changed.append(png_chunk(name, payload))
        position += 12 + length
    return b"".join(changed)


def test_longest_delays_are_cut_to_what_webp_can_store() -> None:
    data = apng(MOVING)
    data = data[:33] + repeat_delay(data[33:], 65_535, 1)
    assert list_delays(kept(data)) == [0xFFFFFF] * 3
    many = apng([Step("red" if index % 2 else "blue") for index in range(200)])
    many = many[:33] + repeat_delay(many[33:], 65_535, 1)
    assert sum(list_delays(kept(many))) < 1 << 31


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("plays", [0, 1, 3, 65_535])
def test_an_animation_is_played_as_often(kind: str, plays: int) -> None:
    assert kept(MAKERS[kind](MOVING, plays=plays)).info["loop"] == plays


def test_more_plays_than_webp_can_store_are_cut() -> None:
    assert kept(apng(MOVING, plays=1 << 30)).info["loop"] == 65_535


def test_an_image_outside_the_animation_is_only_shown_where_it_is_flattened() -> None:
    data = apng(MOVING, default=Image.new("RGBA", (SIDE, SIDE), "white"))
    still = ip.VariantSpec("still", quality=100)
    result = ip.process(data, [KEEP, still])
    with Image.open(BytesIO(result.variants["still"].data)) as image:
        assert min(pixel(image.convert("RGB"), (8, 8))) > 250
    assert [pixel(frame, (8, 8))[:2] for frame in drawn(data)] == [(255, 0), (0, 255), (0, 255)]
    assert result.variants["all"].frames == 3


def test_only_sizes_that_keep_it_move_and_the_others_are_warned_of() -> None:
    data = photo_apng(4)
    specs = [KEEP, ip.VariantSpec("still", width=20)]
    result = ip.process(data, specs, threads=2)
    described = result.describe()["variants"]
    assert described["all"]["frames"] == 4
    assert described["all"]["duration_seconds"] == 0.16
    assert not {"frames", "duration_seconds"} & described["still"].keys()
    assert result.warnings == ("animation_flattened",)
    assert ip.process(data, [KEEP]).warnings == ()
    assert result.variants["still"] == ip.process(data, specs[1:]).variants["still"]
    assert result.variants["all"] == ip.process(data, specs[:1], threads=1).variants["all"]


def test_sizes_that_give_the_same_file_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def note(frames: Iterator[Image.Image], *options: Any) -> bytes:
        encoded.append(options)
        return encode_frames(frames, *options)

    monkeypatch.setattr("imageprocessor.core.webp_encoder.encode_frames", note)
    options: list[dict[str, Any]] = [
        {"width": 600},
        {"width": 1200},
        {"width": 32, "height": 24, "fit": "cover"},
        {"width": 600, "quality": 50},
        {"width": 16},
        {"width": 600, "grayscale": True},
    ]
    specs = []
    for index, each in enumerate(options):
        specs.append(ip.VariantSpec(f"size{index}", animation="keep", **each))
    made = ip.process(photo_apng(2), specs, threads=1).variants
    assert len(encoded) == 4
    assert made["size0"] == made["size1"] == made["size2"]
    assert len({variant.data for variant in made.values()}) == 4
    widths = [variant.width for variant in made.values()]
    assert widths == [32, 32, 32, 32, 16, 32]


def test_moving_and_still_sizes_are_not_mixed_in_a_srcset() -> None:
    specs = [
        ip.VariantSpec("w8", width=8, animation="keep"),
        ip.VariantSpec("w16", width=16),
        ip.VariantSpec("w24", width=24, animation="keep"),
    ]
    assert ip.process(photo_apng(2), specs).responsive == ("w8", "w24")
    assert ip.process(encode(photo(32, 24), "PNG"), specs).responsive == ("w8", "w16", "w24")


def test_an_image_without_animation_is_the_same_either_way() -> None:
    data = encode(photo(90, 60), "JPEG")
    first, all_frames = (ip.transform(data, f"w_40,anim_{value}") for value in ("first", "keep"))
    assert first == all_frames
    assert ip.Transformation.parse("anim_first") == ip.Transformation()


def test_frames_that_look_the_same_are_one() -> None:
    merged = ip.transform(apng([Step("red"), Step("red"), Step("blue")]), "anim_keep")
    assert (merged.frames, merged.duration_seconds) == (2, 0.12)
    still = ip.transform(apng([Step("red"), Step("red")]), "anim_keep")
    assert (still.frames, still.duration_seconds) == (1, None)


@pytest.mark.parametrize(
    ("operations", "size"),
    [
        ("crop_8:0:32:48", (32, 48)),
        ("rot_90,w_24", (24, 32)),
        ("w_30,h_30,fit_cover,g_auto", (30, 30)),
        ("w_40,h_40,fit_pad,bg_ffffff", (40, 40)),
        ("trim_1", (44, 28)),
        ("w_128,up_1", (128, 96)),
        ("gray_1,blur_1,pad_3,r_9", (70, 54)),
        ("wm_logo:se:100:40", (64, 48)),
    ],
)
def test_operations_apply_to_each_frame(operations: str, size: tuple[int, int]) -> None:
    background = Image.new("RGBA", (64, 48), "white")
    background.paste((200, 40, 40, 255), (10, 10, 54, 38))
    steps = [Step(background, (0, 0, 64, 48))]
    steps += [Step("blue", (place, 8, 8, 8)) for place in (12, 20, 28, 36)]
    data = apng(steps, size=(64, 48))
    marks = {"logo": encode(Image.new("RGB", (10, 10), "black"), "PNG")}
    moving = ip.transform(data, f"{operations},anim_keep,q_100", watermarks=marks)
    frames = list_frames(Image.open(BytesIO(moving.data)))
    assert len(frames) == len(steps)
    first = ip.transform(data, f"{operations},q_100", watermarks=marks)
    with Image.open(BytesIO(first.data)) as image:
        shown = [on_gray(each.convert("RGBA")) for each in (image, frames[0])]
    assert np.abs(shown[0] - shown[1]).mean() < 5  # losslessly, and not
    assert {frame.size for frame in frames} == {size}


def test_the_first_frame_decides_which_part_is_kept() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    busy = Image.fromarray(noise).convert("RGBA")
    blank = Image.new("RGBA", (96, 32), "gray")
    steps = [Step(blank, (0, 0, 96, 32)), Step(busy, (64, 0, 32, 32))]
    left_first = [Step(blank, (0, 0, 96, 32)), Step(busy, (0, 0, 32, 32))]
    for second, expected in ((steps, False), (left_first, True)):
        opening = blank.copy()
        opening.paste(busy, (0, 0))
        data = apng([Step(opening, (0, 0, 96, 32)), *second], size=(96, 32))
        *_, last = list_frames(kept(data, "w_32,h_32,fit_cover,g_auto"))
        assert (np.asarray(last.convert("L")).std() > 30) == expected


def test_orientation_and_colours_are_those_of_the_file_on_each_frame() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    left = Image.new("RGBA", (32, 16), "red")
    left.paste("blue", (0, 0, 8, 16))
    pictures = [left, left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    steps = [Step(picture, (0, 0, 32, 16)) for picture in pictures]
    plain = apng(steps, size=(32, 16))
    sideways = insert_chunks(plain, png_chunk(b"eXIf", exif.tobytes()[6:]), before=b"acTL")
    frames = list_frames(kept(sideways))
    assert [frame.size for frame in frames] == [(16, 32)] * 2
    assert [pixel(frame, (8, 2))[2] > 200 for frame in frames] == [True, False]
    assert [pixel(frame, (8, 29))[2] > 200 for frame in frames] == [False, True]

    gray_blue = Image.new("RGB", (32, 16), (90, 120, 200))
    others = [gray_blue.rotate(180)]
    others[0].paste((200, 120, 90), (0, 0, 16, 16))
    profile = rgb_profile(P3, *SRGB_CURVE)
    options: dict[str, Any] = {"save_all": True, "append_images": others, "icc_profile": profile}
    for kind in ("PNG", "WEBP"):
        moving = drawn(encode(gray_blue, kind, lossless=True, **options))
        for frame, image in zip(moving, [gray_blue, *others], strict=True):
            still = ip.transform(encode(image, "PNG", icc_profile=profile), "q_100")
            with Image.open(BytesIO(still.data)) as expected:
                difference = np.abs(
                    np.asarray(expected.convert("RGB"), int) - np.asarray(frame.convert("RGB"))
                )
            assert difference.mean() < 2


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "I;16"])
def test_other_kinds_of_pixels_move_too(mode: str) -> None:
    images = [photo(24, 18, seed).convert("L") for seed in range(3)]
    pictures = [image.convert(mode) for image in images]
    data = encode(pictures[0], "PNG", save_all=True, append_images=pictures[1:], duration=50)
    frames = drawn(data)
    assert len(frames) == 3
    for frame, picture in zip(frames, pictures, strict=True):
        image = images[pictures.index(picture)] if mode == "I;16" else picture
        expected = np.asarray(image.convert("L"), int)
        scale = 256 if mode == "I;16" else 1
        assert np.abs(np.asarray(frame.convert("L"), int) - expected // scale).max() <= 1


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.97])
def test_an_animation_with_missing_frames_is_refused_where_it_is_kept(
    kind: str, fraction: float
) -> None:
    steps = [Step(photo(16, 16, index).convert("RGBA")) for index in range(6)]
    data = truncated(MAKERS[kind](steps), fraction)
    with pytest.raises((ip.TruncatedImageError, ip.InvalidImageError)):
        ip.transform(data, "anim_keep")
    if kind == "APNG":
        assert ip.transform(data, "w_8").frames == 1


def chunk_changed(png: bytes, name: bytes, index: int, place: int) -> bytes:
    """Return a PNG in which one byte of the chunk's payload changed, and its checksum did not."""
    position = -1
    for _ in range(index + 1):
        position = png.index(name, position + 1)
    data = bytearray(png)
    data[position + 4 + place] ^= 1
    return bytes(data)


GOOD = apng(MOVING)
DAMAGED = {
    "a frame is missing": apng(MOVING, announced=4),
    "all frames are missing": apng([], announced=2, default=Image.new("RGBA", (SIDE, SIDE))),
    "a checksum of pixels is wrong": chunk_changed(GOOD, b"fdAT", 1, 8),
    "a checksum of a control is wrong": chunk_changed(GOOD, b"fcTL", 1, 9),
    "a part is missing": GOOD[: GOOD.index(b"fdAT") - 4] + GOOD[GOOD.index(b"fdAT") + 40 :],
    "an APNG's frame is outside": apng([Step("red"), Step("red", (8, 8, 9, 8))]),
    "an APNG's frame is empty": apng([Step("red"), Step("red", (8, 8, 0, 8))]),
    "an APNG's frame has fewer pixels": apng(
        [Step("red"), Step(Image.new("RGBA", (4, 4)), (0, 0, 8, 8))]
    ),
    "an APNG's first frame is smaller": apng([Step("red", (0, 0, 8, 8)), Step("red")]),
    "a WebP's frame is outside": webp([Step("red"), Step("red", (10, 8, 8, 8))]),
    "a WebP's frame is smaller": webp([Step("red"), Step(Image.new("RGBA", (4, 4)), INNER)]),
    "a WebP's frame is larger": webp([Step("red"), Step(photo(90, 90), INNER)]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_frames_are_refused_where_they_are_kept(name: str) -> None:
    with pytest.raises((ip.InvalidImageError, ip.TruncatedImageError)):
        ip.transform(DAMAGED[name], "anim_keep")
    if "a WebP" not in name and name != "an APNG's first frame is smaller":
        assert ip.transform(DAMAGED[name], "").frames == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_frames": 2}, "has 3 frames; the limit is 2"),
        ({"max_pixels": 767}, "3 frames of 256 pixels, 768 in all; the limit is 767"),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_too_long_an_animation_is_refused_only_where_it_is_kept(
    kind: str, limits: dict[str, Any], message: str
) -> None:
    data = MAKERS[kind](MOVING)
    with pytest.raises(ip.AnimationTooLongError, match=message):
        ip.transform(data, "anim_keep", ip.Limits(**limits))
    assert ip.transform(data, "", ip.Limits(**limits)).frames == 1
    assert ip.transform(data, "anim_keep", ip.Limits(max_frames=3, max_pixels=768)).frames == 3


def test_enlarged_frames_are_limited_together() -> None:
    limits = ip.Limits(max_pixels=100_000)
    assert ip.transform(apng(MOVING), "w_180,up_1,anim_keep", limits).frames == 3
    with pytest.raises(ip.InvalidTransformationError, match="The result would have 190 x 190"):
        ip.transform(apng(MOVING), "w_190,up_1,anim_keep", limits)


def test_frames_are_drawn_one_at_a_time() -> None:
    made: list[weakref.ref[Image.Image]] = []
    most = 0

    def draw() -> Iterator[Image.Image]:
        nonlocal most
        for index in range(30):
            image = photo(40, 30, index)
            made.append(weakref.ref(image))
            most = max(most, sum(each() is not None for each in made))
            yield image

    data = encode_frames(draw(), [40] * 30, 0, Encoding(quality=80, effort=0))
    assert Image.open(BytesIO(data)).n_frames == 30  # type: ignore[attr-defined]
    assert most <= 2


def test_unchanged_parts_are_not_stored_again() -> None:
    still = photo(120, 90)
    frames = []
    for index in range(12):
        frame = still.copy()
        frame.paste((255, 255, 0), (8 * index, 40, 8 * index + 10, 50))
        frames.append(frame)
    sizes = []
    for count in (1, 6, 12):
        encoding = Encoding(quality=85, effort=4)
        sizes.append(len(encode_frames(iter(frames[:count]), [40] * count, 0, encoding)))
    assert all(later - earlier < sizes[0] for earlier, later in pairwise(sizes))


def test_a_size_of_the_settings_may_keep_animations() -> None:
    with pytest.raises(ip.InvalidTransformationError, match="Use first or keep"):
        ip.Transformation.parse("anim_all")
    with pytest.raises(ip.InvalidVariantError, match="animation is 'all'"):
        ip.VariantSpec("a", animation="all")  # type: ignore[arg-type]
