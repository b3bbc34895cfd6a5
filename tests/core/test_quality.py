from __future__ import annotations

import dataclasses
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imageprocessor as ip
from benchmarks.graphics import draw_pixel_art, draw_screenshot
from imageprocessor.core.formats.container import Coding
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import FORMATS, OUTPUT_FORMATS
from imageprocessor.core.likeness import compare
from imageprocessor.core.quality import AUTO_LIKENESS, MOST_TRIES, SourceFile, encode_best
from tests.images import apng, encode, photo

WEBP = OUTPUT_FORMATS["webp"]
DETAILED = photo(80, 60).resize((320, 240), Image.Resampling.BICUBIC)
SMOOTH = photo(40, 30).resize((320, 240), Image.Resampling.BICUBIC)
TEXT = draw_screenshot(320, 200)
TRANSLUCENT = draw_pixel_art(16, 4)
TRANSLUCENT.putalpha(TRANSLUCENT.getchannel("G"))


def process(data: bytes, **options: Any) -> ip.Variant:
    spec = ip.VariantSpec("one", **{"width": 4096, **options})
    return ip.process(data, [spec], threads=1).variants["one"]


def decode(variant: ip.Variant) -> Image.Image:
    return Image.open(BytesIO(variant.data))


def webp(data: bytes, quality: int) -> bytes:
    """Return the image in *data* as WebP of exactly that quality."""
    with Image.open(BytesIO(data)) as image:
        assert WEBP.encode is not None
        return WEBP.encode(image.convert("RGB"), Encoding(quality, effort=4))


def is_exact(variant: ip.Variant, image: Image.Image) -> bool:
    mode = decode(variant).mode
    return decode(variant).tobytes() == image.convert(mode).tobytes()


class Counter:
    """A WebP encoder that remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[Encoding] = []
        self.image_format = dataclasses.replace(WEBP, encode=self)

    def __call__(self, image: Image.Image, encoding: Encoding) -> bytes:
        self.calls.append(encoding)
        assert WEBP.encode is not None
        return WEBP.encode(image, encoding)


def source_of(data: bytes) -> SourceFile:
    info = ip.validate(data)
    coding = FORMATS[info.format].read_coding(data)
    return SourceFile(ip.Dimensions(info.width, info.height), len(data), coding)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_quality_of_a_jpeg_is_read_from_its_table(mode: str) -> None:
    image = photo(16, 16).convert(mode)
    for quality in range(1, 101):
        data = encode(image, "JPEG", quality=quality, progressive=quality % 2 == 0)
        assert FORMATS["JPEG"].read_coding(data) == Coding(jpeg_quality=quality)


def test_quality_of_a_jpeg_with_other_tables_is_the_nearest() -> None:
    tables = [[9] * 64, [300] * 2 + [50] * 62]  # the second one has 16 bits
    data = encode(SMOOTH, "JPEG", qtables=tables)
    assert FORMATS["JPEG"].read_coding(data).jpeg_quality == 92
    coarse = encode(SMOOTH, "JPEG", qtables=tables[::-1])
    assert FORMATS["JPEG"].read_coding(coarse).jpeg_quality == 50


@pytest.mark.parametrize(
    ("image_format", "data", "is_lossless"),
    [
        ("PNG", encode(SMOOTH, "PNG"), True),
        ("PNG", apng(), True),
        ("WEBP", encode(SMOOTH, "WEBP", lossless=True), True),
        ("WEBP", encode(SMOOTH.convert("RGBA"), "WEBP", lossless=True), True),
        ("WEBP", encode(SMOOTH, "WEBP"), False),
        ("WEBP", encode(photo(9, 9), "WEBP", save_all=True, append_images=[photo(9, 9, 1)]), False),
        ("JPEG", encode(SMOOTH, "JPEG"), False),
        ("GIF", encode(SMOOTH, "GIF"), True),
    ],
    ids=["png", "apng", "lossless webp", "translucent", "webp", "animated webp", "jpeg", "gif"],
)
def test_a_file_shows_whether_it_is_lossless(
    image_format: str, data: bytes, is_lossless: bool
) -> None:
    assert FORMATS[image_format].read_coding(data).is_lossless is is_lossless


@pytest.mark.parametrize(
    ("jpeg", "asked", "used"),
    [(70, 85, 65), (100, 85, 85), (100, 98, 95), (80, 40, 40), (10, 85, 20), (50, 10, 10)],
)
def test_a_variant_gets_no_better_quality_than_its_jpeg(jpeg: int, asked: int, used: int) -> None:
    data = encode(SMOOTH, "JPEG", quality=jpeg)
    assert process(data, quality=asked).data == webp(data, used)


def test_a_small_variant_of_a_jpeg_gets_the_quality_that_is_asked_for() -> None:
    data = encode(photo(200, 100), "JPEG", quality=40)
    sizes = [process(data, width=width).size_bytes for width in (149, 150)]
    assert sizes[0] > 1.5 * sizes[1]


def test_a_variant_that_is_no_smaller_than_its_source_is_encoded_once_more() -> None:
    data = encode(SMOOTH, "WEBP", quality=30)
    assert len(webp(data, 85)) > len(data)
    assert process(data).data == webp(data, 73)
    assert process(data, width=480, enlarge=True).size_bytes > len(data), "larger in pixels"


def test_auto_is_the_lowest_quality_that_keeps_the_likeness() -> None:
    data = encode(DETAILED, "PNG")
    counter = Counter()
    spec = ip.VariantSpec("auto", quality="auto", lossless=False)
    coded = encode_best(DETAILED, counter.image_format, spec, source_of(data))
    assert len(counter.calls) == MOST_TRIES
    assert compare(DETAILED, coded) >= AUTO_LIKENESS
    used = next(each.quality for each in counter.calls if webp(data, each.quality) == coded)
    assert 60 < used < 85
    assert compare(DETAILED, webp(data, used - 1)) < AUTO_LIKENESS


def test_auto_does_not_go_so_low_that_smooth_areas_get_steps() -> None:
    data = encode(SMOOTH, "PNG")
    assert compare(SMOOTH, webp(data, 50)) > AUTO_LIKENESS
    assert process(data, quality="auto", lossless=False).data == webp(data, 60)
    low = encode(SMOOTH, "JPEG", quality=45)
    assert process(low, quality="auto").data == webp(low, 40)


def test_auto_is_at_most_the_usual_quality() -> None:
    data = encode(photo(100, 80), "PNG")  # noise
    auto = process(data, quality="auto")
    assert compare(photo(100, 80), auto.data) < AUTO_LIKENESS
    assert 0.8 * len(webp(data, 85)) < auto.size_bytes <= len(webp(data, 85))


@pytest.mark.parametrize("part", [0.9, 0.5, 0.2])
def test_max_bytes_lowers_the_quality_as_little_as_needed(part: float) -> None:
    data = encode(photo(100, 80), "JPEG", quality=95)
    most = int(part * process(data).size_bytes)
    variant = process(data, max_bytes=most)
    assert 0.85 * most < variant.size_bytes <= most


def test_max_bytes_that_is_not_reached_yields_the_smallest_file_and_a_warning() -> None:
    data = encode(photo(100, 80), "JPEG", quality=95)
    counter = Counter()
    spec = ip.VariantSpec("tiny", width=100, max_bytes=50)
    result = ip.process(data, [spec, ip.VariantSpec("large", width=100)], threads=1)
    assert result.warnings == ("max_bytes_exceeded",)
    coded = encode_best(photo(100, 80), counter.image_format, spec, source_of(data))
    assert len(counter.calls) == 1 + MOST_TRIES
    assert 50 < result.variants["tiny"].size_bytes < 0.2 * result.variants["large"].size_bytes
    assert len(coded) < 0.2 * result.variants["large"].size_bytes


def test_max_bytes_also_bounds_a_lossless_file() -> None:
    data = encode(TEXT, "PNG")
    exact = process(data)
    assert process(data, max_bytes=exact.size_bytes).data == exact.data
    smaller = process(data, max_bytes=exact.size_bytes - 1)
    assert smaller.size_bytes < exact.size_bytes
    assert not is_exact(smaller, TEXT)


@pytest.mark.parametrize(
    "image",
    [
        TEXT,
        draw_pixel_art(16, 8),
        TRANSLUCENT,
        Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)),
        TEXT.convert("L"),
        TEXT.convert("1"),
        TEXT.quantize(16),
    ],
    ids=["text", "pixel art", "translucent", "3 x 1", "gray", "black and white", "palette"],
)  # fmt: skip
def test_graphics_are_exact_and_not_larger(image: Image.Image) -> None:
    data = encode(image, "PNG")
    variant = ip.process(data).variants["original"]
    assert is_exact(variant, image)
    assert variant.size_bytes <= 1.25 * process(data, lossless=False).size_bytes


@pytest.mark.parametrize(
    "data",
    [encode(TEXT, "PNG", compress_level=0), encode(TEXT, "WEBP", lossless=True)],
    ids=["uncompressed png", "lossless webp"],
)
def test_graphics_of_other_lossless_files_are_exact(data: bytes) -> None:
    assert is_exact(process(data), TEXT)


def test_a_photo_is_not_even_tried_without_loss() -> None:
    for image in (photo(200, 150), SMOOTH, photo(200, 150).convert("L")):
        counter = Counter()
        data = encode(image, "PNG")
        spec = ip.VariantSpec("photo")
        encode_best(image.convert("RGB"), counter.image_format, spec, source_of(data))
        assert counter.calls == [Encoding(85, 4)]


def test_a_graphic_from_a_lossy_file_stays_lossy() -> None:
    data = encode(TEXT, "JPEG", quality=90)
    assert not FORMATS["WEBP"].read_coding(process(data).data).is_lossless


@pytest.mark.parametrize(
    ("image", "is_lossless"), [(draw_pixel_art(4, 80), True), (photo(320, 200), False)]
)
def test_smaller_variants_are_tried_like_the_largest(image: Image.Image, is_lossless: bool) -> None:
    data = encode(image, "PNG")
    specs = [ip.VariantSpec("small", width=160), ip.VariantSpec("large", width=320)]
    specs.append(ip.VariantSpec("gray", grayscale=True))
    results = [ip.process(data, specs, threads=threads) for threads in (1, 2, 8)]
    assert results[0] == results[1] == results[2]
    for variant in results[0].variants.values():
        assert FORMATS["WEBP"].read_coding(variant.data).is_lossless is is_lossless


def test_a_larger_variant_in_another_format_does_not_decide() -> None:
    data = encode(draw_pixel_art(4, 80), "PNG")
    specs = [ip.VariantSpec("large", width=320, format="jpeg"), ip.VariantSpec("small", width=160)]
    small = ip.process(data, specs, threads=1).variants["small"]
    assert FORMATS["WEBP"].read_coding(small.data).is_lossless


def test_a_gif_of_few_colors_stays_exact() -> None:
    image = draw_pixel_art(16, 8)
    limits = ip.Limits(mime_types=frozenset({"image/gif"}))
    made = ip.process(encode(image, "GIF"), [ip.VariantSpec("one")], limits).variants["one"]
    assert is_exact(made, image)


def test_loss_can_be_chosen() -> None:
    image = photo(64, 48)
    data = encode(image, "PNG")
    assert is_exact(process(data, lossless=True), image)
    assert is_exact(ip.transform(data, "lossless_1"), image)
    assert process(encode(TEXT, "PNG"), lossless=False).data == webp(encode(TEXT, "PNG"), 85)
    jpeg = encode(image, "JPEG")
    with Image.open(BytesIO(jpeg)) as decoded:
        assert is_exact(process(jpeg, lossless=True), decoded)


def test_variants_that_differ_only_in_loss_or_bytes_are_encoded_separately() -> None:
    data = encode(photo(64, 48), "PNG")
    options: list[dict[str, Any]] = [{}, {"lossless": True}, {"max_bytes": 900}]
    specs = [ip.VariantSpec(f"v{index}", **each) for index, each in enumerate(options)]
    variants = ip.process(data, specs, threads=1).variants
    assert len({variant.data for variant in variants.values()}) == 3
