from __future__ import annotations

import io
import subprocess
import sys
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import ProcessedImage, dominant_color, process
from imageprocessor.core.source import ImageSource
from imageprocessor.core.variants import DEFAULT_VARIANTS, VariantSpec
from imageprocessor.errors import (
    EmptyFileError,
    FileTooLargeError,
    InvalidVariantError,
    TooManyPixelsError,
    TruncatedImageError,
    UnsupportedTypeError,
)
from tests.core.color.test_conformance import P3, SRGB_CURVE, rgb_profile
from tests.images import (
    CORPUS,
    SENTINELS,
    animated_webp,
    apng,
    encode,
    needs_photographs,
    oriented,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
    truncated,
    webp_chunks,
)

FULL = VariantSpec("full", width=4096, quality=95)
SMALL = VariantSpec("small", width=60, quality=95)
LANDSCAPE = encode(photo(160, 120).resize((1600, 1200)), "JPEG")


def opened(result: ProcessedImage, name: str) -> Image.Image:
    return Image.open(io.BytesIO(result.variants[name].data))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of the pixels, in levels from 0 to 255."""
    return float(
        np.abs(np.asarray(one.convert("RGB")).astype(int) - np.asarray(other.convert("RGB"))).mean()
    )


# Sizes


def test_variants_are_webp_with_the_reported_sizes_in_the_requested_order() -> None:
    result = process(LANDSCAPE)
    assert list(result.variants) == ["thumbnail", "medium", "large", "original"]
    assert [(v.width, v.height) for v in result.variants.values()] == [
        (150, 112),
        (600, 450),
        (1200, 900),
        (1600, 1200),
    ]
    assert result.original_dimensions == (1600, 1200)
    for name, variant in result.variants.items():
        with opened(result, name) as image:
            assert (image.format, image.mode, image.size) == (
                "WEBP",
                "RGB",
                (variant.width, variant.height),
            )
        assert variant.size_bytes == len(variant.data)


def test_a_phone_photo_gets_the_sizes_of_the_specification() -> None:
    result = process(encode(Image.new("RGB", (3024, 4032), (90, 120, 60)), "JPEG"))
    assert [(v.width, v.height) for v in result.variants.values()] == [
        (150, 200),
        (600, 800),
        (1200, 1600),
        (3024, 4032),
    ]
    assert result.variants["thumbnail"].aspect_ratio == 0.75
    assert result.warnings == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 16384), (16384, 1), (65535, 1), (1, 65535)])
def test_extreme_shapes_are_processed(size: tuple[int, int]) -> None:
    result = process(encode(Image.new("RGB", size, (1, 2, 3)), "PNG"))
    assert all(1 <= side <= 16383 for v in result.variants.values() for side in (v.width, v.height))
    assert (result.original_dimensions, result.dominant_color) == (size, "#010203")


@pytest.mark.parametrize(
    ("name", "levels"), [("thumbnail", 3), ("medium", 1.5), ("large", 0.5), ("original", 0)]
)
def test_resizing_in_steps_looks_like_resizing_at_once(name: str, levels: float) -> None:
    blocks = photo(40, 30).resize((1600, 1200), Image.Resampling.NEAREST)
    result = process(encode(blocks, "PNG"))
    variant = result.variants[name]
    at_once = blocks.resize((variant.width, variant.height), Image.Resampling.LANCZOS)
    with (
        opened(result, name) as stepped,
        Image.open(io.BytesIO(encode(at_once, "WEBP", quality=85))) as encoded,
    ):
        assert difference(stepped, encoded) <= levels


@pytest.mark.parametrize("width", [100, 170, 250, 400, 700])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_only_small_sizes_look_like_resizing_at_once(width: int, image_format: str) -> None:
    source = photo(20, 15).resize((1601, 1203))
    small = process(encode(source, image_format, quality=95), [VariantSpec("small", width=width)])
    at_once = source.resize(opened(small, "small").size, Image.Resampling.LANCZOS)
    with (
        opened(small, "small") as made,
        Image.open(io.BytesIO(encode(at_once, "WEBP", quality=85))) as encoded,
    ):
        assert difference(made, encoded) < 3


def test_small_sizes_of_a_large_photo_need_a_fraction_of_its_memory() -> None:
    """Decoding a JPEG of 48 megapixels in full takes 190 MB."""
    source = encode(Image.new("RGB", (8000, 6000), "teal"), "JPEG")
    program = (
        "import sys, resource, imageprocessor as ip\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ip.process(sys.stdin.buffer.read(), [ip.VariantSpec('card', width=400)])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=source, capture_output=True, check=True
    )
    assert int(done.stdout) < 40 * 1024


@pytest.mark.parametrize(
    "specs", [DEFAULT_VARIANTS, [SMALL, VariantSpec("square", width=50, height=50, fit="cover")]]
)
def test_number_of_threads_does_not_change_the_result(specs: list[VariantSpec]) -> None:
    assert (
        process(LANDSCAPE, specs, threads=1)
        == process(LANDSCAPE, specs, threads=3)
        == process(LANDSCAPE, specs)
    )


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_image_is_decoded_once(image_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    load_prepare = ImageFile.ImageFile.load_prepare

    def count(image: ImageFile.ImageFile) -> None:
        decoded.append(image.format)
        load_prepare(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", count)
    process(encode(photo(160, 120), image_format))
    assert decoded == [image_format]


def test_identical_variants_are_encoded_once() -> None:
    result = process(encode(photo(100, 100), "PNG"))
    assert result.variants["medium"].data is result.variants["original"].data


def test_cover_keeps_the_middle() -> None:
    thirds = Image.new("RGB", (900, 300), (255, 0, 0))
    thirds.paste((0, 255, 0), (300, 0, 600, 300))
    thirds.paste((0, 0, 255), (600, 0, 900, 300))
    specs = [
        FULL,
        VariantSpec("square", width=100, height=100, fit="cover", quality=95),
        VariantSpec("s", width=450),
    ]
    with opened(process(encode(thirds, "PNG"), specs), "square") as square:
        assert square.size == (100, 100)
        assert difference(square, Image.new("RGB", (100, 100), (0, 255, 0))) < 6


def test_cover_of_a_small_image_is_a_crop_without_resizing() -> None:
    image = photo(101, 60)
    spec = VariantSpec("square", width=100, height=100, fit="cover", quality=100)
    with opened(process(encode(image, "PNG"), [spec]), "square") as square:
        assert square.size == (60, 60)
        expected = Image.open(io.BytesIO(encode(image.crop((20, 0, 80, 60)), "WEBP", quality=100)))
        assert difference(square, expected) == 0


def test_variants_that_differ_only_in_quality_are_encoded_separately() -> None:
    specs = [VariantSpec("low", width=100, quality=10), VariantSpec("high", width=100, quality=95)]
    result = process(LANDSCAPE, specs)
    assert result.variants["low"].size_bytes < result.variants["high"].size_bytes / 2


def test_higher_effort_makes_smaller_files() -> None:
    specs = [VariantSpec("fast", width=600, effort=0), VariantSpec("small", width=600, effort=6)]
    result = process(encode(photo(60, 60).resize((600, 600)), "PNG"), specs)
    assert result.variants["small"].size_bytes < result.variants["fast"].size_bytes


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "No sizes were given"),
        ([VariantSpec("a", width=1), VariantSpec("a", width=2)], "occur more than once: a"),
    ],
)
def test_missing_variants_and_repeated_names_are_refused(
    specs: list[VariantSpec], message: str
) -> None:
    with pytest.raises(InvalidVariantError, match=message):
        process(LANDSCAPE, specs)


# Orientation


def corners() -> Image.Image:
    """Return an image that looks different in each of the eight orientations."""
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    for box, rgb in zip(
        [(0, 0, 48, 32), (48, 0, 96, 32), (0, 32, 48, 64)],
        [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        strict=True,
    ):
        image.paste(rgb, box)
    return image


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_variants_are_upright(orientation: int, image_format: str) -> None:
    result = process(oriented(corners(), orientation, image_format), [FULL])
    assert result.original_dimensions == (96, 64)
    with opened(result, "full") as image:
        assert image.getexif() == {}
        assert (
            difference(image, corners()) < 8
        )  # WebP blurs the edges; a wrong orientation gives more than 50


@needs_photographs
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_photos_of_all_orientations_look_like_the_upright_one(shape: str, orientation: int) -> None:
    upright, turned = (
        process(CORPUS / "orientation" / f"{shape}_{number}.jpg", [SMALL])
        for number in (1, orientation)
    )
    assert turned.original_dimensions == upright.original_dimensions
    assert difference(opened(upright, "small"), opened(turned, "small")) < 6


# Metadata, alpha and warnings


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(planted_jpeg(photo(400, 300)), id="JPEG"),
        pytest.param(planted_png(photo(400, 300)), id="PNG"),
        pytest.param(planted_webp(), id="animated WebP"),
    ],
)
def test_only_the_image_reaches_the_variants(data: bytes) -> None:
    assert any(sentinel in data for sentinel in SENTINELS)
    for variant in process(data).variants.values():
        assert {name for name, _ in webp_chunks(variant.data)} <= {b"VP8 ", b"VP8X", b"ALPH"}
        assert not any(sentinel in variant.data for sentinel in SENTINELS)
        assert not any(
            mark in variant.data for mark in (b"Exif", b"ICCP", b"<x:xmpmeta", b"JFIF", b"acsp")
        )


def test_alpha_is_kept_if_some_pixel_needs_it() -> None:
    image = photo(300, 200).convert("RGBA")
    assert opened(process(encode(image, "PNG")), "thumbnail").mode == "RGB"
    image.putalpha(Image.linear_gradient("L").resize((300, 200)))
    with opened(process(encode(image, "PNG"), [FULL]), "full") as full:
        assert full.mode == "RGBA"
        assert (
            np.abs(
                np.asarray(full.getchannel("A")).astype(int) - np.asarray(image.getchannel("A"))
            ).max()
            <= 2
        )


def test_color_under_transparent_pixels_does_not_bleed_into_the_edge() -> None:
    image = Image.new("RGBA", (400, 400), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (200, 0, 400, 400))
    with opened(
        process(encode(image, "PNG"), [VariantSpec("s", width=50, quality=100)]), "s"
    ) as small:
        red, _, _, alpha = (np.asarray(small.getchannel(band)).astype(int) for band in "RGBA")
    assert red[alpha > 200].max() < 40


@pytest.mark.parametrize(
    ("data", "specs", "warnings"),
    [
        (
            LANDSCAPE,
            DEFAULT_VARIANTS,
            (),
        ),  # smaller only than "original", whose width is an upper bound
        (encode(photo(1000, 9), "PNG"), DEFAULT_VARIANTS, ("not_enlarged",)),
        (encode(photo(99, 9), "PNG"), [VariantSpec("a", width=100)], ("not_enlarged",)),
        (encode(photo(100, 9), "PNG"), [VariantSpec("a", width=100)], ()),
        (encode(photo(99, 50), "PNG"), [VariantSpec("a", width=100, height=20)], ()),
        (
            encode(photo(99, 50), "PNG"),
            [VariantSpec("a", width=90, height=60, fit="cover")],
            ("not_enlarged",),
        ),
        (encode(photo(99, 60), "PNG"), [VariantSpec("a", width=90, height=60, fit="cover")], ()),
        (apng(), [VariantSpec("a", width=9)], ("animation_flattened",)),
        (animated_webp(), [VariantSpec("a", width=9)], ("animation_flattened",)),
        (
            encode(photo(9, 9), "PNG", icc_profile=b"x"),
            [VariantSpec("a", width=9)],
            ("icc_invalid",),
        ),
        (planted_jpeg(), [VariantSpec("a", width=9)], ("hdr_gain_map_dropped",)),
        (
            encode(
                photo(9, 9), "PNG", icc_profile=b"x", save_all=True, append_images=[photo(9, 9, 1)]
            ),
            DEFAULT_VARIANTS,
            ("animation_flattened", "icc_invalid", "not_enlarged"),
        ),
    ],
)
def test_warnings_name_what_was_lost(
    data: bytes, specs: list[VariantSpec], warnings: tuple[str, ...]
) -> None:
    assert process(data, specs).warnings == warnings


def test_animation_becomes_its_first_frame() -> None:
    for data in (apng(), animated_webp()):
        with opened(process(data, [FULL]), "full") as image:
            assert difference(image, photo(32, 24)) < 12
            assert difference(image, photo(32, 24)) < difference(image, photo(32, 24, seed=1))


# Appearance


@pytest.mark.parametrize(
    "data", [LANDSCAPE, encode(photo(70, 90).convert("LA"), "PNG"), planted_jpeg(), apng()]
)
def test_dominant_color_is_that_of_process(data: bytes) -> None:
    result = process(data)
    assert dominant_color(data) == result.dominant_color == result.palette[0]


def looks(data: ImageSource, *widths: int) -> list[ProcessedImage]:
    """Return the results for the original size, for an operation, and for each of *widths*."""
    gray = VariantSpec("gray", crop="10p:10p:20p:20p", width=40, grayscale=True)
    specs = [VariantSpec("all", effort=0), gray]
    specs += [VariantSpec("only", width=width) for width in widths]
    return [process(data, [spec]) for spec in specs]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_and_placeholder_are_the_same_whatever_the_sizes_are(
    image_format: str, mode: str
) -> None:
    image = photo(1100, 90).convert(mode)
    if mode == "RGBA":
        image.putpixel((9, 9), (0, 0, 0, 254))
    data = oriented(image, 6, image_format)
    found = {(each.palette, each.placeholder, each.has_alpha) for each in looks(data, 9, 64)}
    assert len(found) == 1
    assert process(data, [SMALL]).has_alpha == (mode == "RGBA")


def assert_alike(results: list[ProcessedImage], levels: int) -> None:
    """Check that no dominant colour differs by more, and that the placeholders look alike."""
    expected = results[0]
    for result in results:
        color, other = (bytes.fromhex(each.dominant_color[1:]) for each in (expected, result))
        assert max(abs(one - two) for one, two in zip(color, other, strict=True)) <= levels
        assert difference(placeholder(expected), placeholder(result)) < 6


def placeholder(result: ProcessedImage) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(result.placeholder.data_url.partition(",")[2])))


def test_colour_of_a_jpeg_hardly_depends_on_the_scale_at_which_it_is_decoded() -> None:
    image = Image.new("RGB", (800, 600), (190, 60, 40))
    image.paste((30, 80, 160), (0, 0, 450, 600))
    noisy = Image.blend(image, photo(160, 120).resize(image.size), 0.2)
    assert_alike(looks(encode(noisy, "JPEG"), 40, 100, 200), levels=2)


@needs_photographs
@pytest.mark.parametrize("name", ["Landscape_1", "Portrait_6"])
def test_colour_of_a_photo_hardly_depends_on_the_sizes(name: str) -> None:
    assert_alike(looks(CORPUS / "orientation" / f"{name}.jpg", 64, 200, 400), levels=5)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_placeholder_is_upright(orientation: int, image_format: str) -> None:
    result = process(oriented(corners(), orientation, image_format), [SMALL])
    with placeholder(result) as image:
        assert image.size == (24, 16)
        assert difference(image, corners().reduce(4)) < 20


def test_colours_are_srgb() -> None:
    data = encode(
        Image.new("RGB", (40, 30), (0, 200, 0)), "PNG", icc_profile=rgb_profile(P3, *SRGB_CURVE)
    )
    result = process(data, [FULL])
    with opened(result, "full") as image:
        seen = image.getpixel((9, 9))
    found = tuple(bytes.fromhex(result.dominant_color[1:]))
    assert seen == pytest.approx(found, abs=3)
    assert found[1] > 202  # green of Display P3 is brighter


def test_image_without_an_opaque_pixel_has_no_colours() -> None:
    clear = encode(Image.new("RGBA", (9, 9), (1, 2, 3, 127)), "PNG")
    result = process(clear, [SMALL])
    assert (result.palette, result.dominant_color, result.has_alpha) == ((), "#FFFFFF", True)
    assert dominant_color(clear) == "#FFFFFF"
    assert placeholder(result).mode == "RGBA"


def test_opaque_alpha_is_no_alpha_and_several_frames_are_animated() -> None:
    assert not process(encode(photo(9, 9).convert("RGBA"), "PNG"), [SMALL]).has_alpha
    assert not process(LANDSCAPE, [SMALL]).animated
    assert process(apng(), [SMALL]).animated
    assert process(animated_webp(), [SMALL]).animated


# Input, limits, determinism


def test_bytes_path_and_file_give_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(LANDSCAPE)
    with path.open("rb") as file:
        file.seek(7)
        results: list[ProcessedImage] = [
            process(source) for source in (LANDSCAPE, path, str(path), file)
        ]
        assert file.tell() == 7
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("data", "limits", "error"),
    [
        (b"", {}, EmptyFileError),
        (b"GIF89a" + bytes(99), {}, UnsupportedTypeError),
        (LANDSCAPE, {"max_bytes": 1000}, FileTooLargeError),
        (LANDSCAPE, {"max_pixels": 1000}, TooManyPixelsError),
        (truncated(LANDSCAPE, 0.5), {}, TruncatedImageError),
    ],
)
@pytest.mark.parametrize("work", [process, dominant_color])
def test_unacceptable_images_raise_their_error(
    work: Any, data: bytes, limits: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        work(data, limits=Limits(**limits))


def test_same_input_gives_the_same_bytes_from_many_threads() -> None:
    sources = [
        LANDSCAPE,
        encode(photo(500, 300).convert("CMYK"), "JPEG"),
        encode(photo(80, 90).quantize(9), "PNG"),
    ] * 3
    alone = [process(source) for source in sources[:3]] * 3
    with ThreadPoolExecutor(9) as threads:
        assert list(threads.map(process, sources)) == alone
