"""The steps of the pipeline in order. Each one modifies the ``Work`` that it receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil

from PIL import Image

from imageprocessor.core.animation import Animation, encode_animation, open_animation
from imageprocessor.core.appearance.palette import find_palette
from imageprocessor.core.appearance.placeholder import Placeholder, make_placeholder
from imageprocessor.core.appearance.sample import SAMPLE_SIDE, take_sample
from imageprocessor.core.color.conversion import is_srgb, is_translucent, to_srgb
from imageprocessor.core.color.spaces import declares_hdr
from imageprocessor.core.decode import Unpacked, decode, unpack
from imageprocessor.core.encode import Encoders
from imageprocessor.core.formats.jpeg import is_arithmetic
from imageprocessor.core.geometry import Crop, Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.orientation import swaps_sides, upright
from imageprocessor.core.resize import REDUCING_GAP, resize, resize_to_each, shrink
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.transformations.apply import Choices, apply
from imageprocessor.core.validate import validate
from imageprocessor.core.variants import Variant, VariantSpec
from imageprocessor.errors import InputError, InvalidTransformationError


@dataclass(slots=True)
class Work:
    """An image between steps: what was requested, and the results so far.

    Args:
        image: the pixels after the latest step.
        original: the size of the upright image in pixels, before any shrinking.
        orientation: EXIF's, 1 to 8; 1 once the pixels are upright.
        crops: the crop of the upright image for each of *specs*.
        stripped: the source without its metadata, if it is a JPEG that browsers show as it is.
        animation: all frames, if the file has more than one and one of *specs* keeps them.
    """

    source: ImageSource
    specs: Sequence[VariantSpec]
    limits: Limits
    threads: int = 1
    watermarks: Mapping[str, ImageSource] = field(default_factory=dict)

    image: Image.Image = field(init=False)
    original: Dimensions = field(init=False)
    orientation: int = field(init=False)
    crops: list[Crop] = field(init=False)
    animated: bool = field(init=False)
    has_alpha: bool = field(init=False)
    palette: tuple[str, ...] = field(init=False)
    placeholder: Placeholder = field(init=False)
    stripped: bytes | None = None
    variants: dict[str, Variant] = field(init=False)
    removed: frozenset[str] = field(init=False)
    warnings: set[str] = field(default_factory=set)
    animation: Animation | None = None


def decode_once(work: Work) -> None:
    """Check the header, then decode only as many pixels as the fine part of resizing needs."""
    with open_source(work.source) as file:
        info = validate(file, work.limits)
        unpacked = unpack(file, info)
        if any(spec.animation == "keep" for spec in work.specs):
            work.animation = open_animation(file, info, unpacked, work.limits)
    stored = Dimensions(info.width, info.height)
    work.orientation = unpacked.orientation
    work.original = _turn_if_sideways(stored, work.orientation)
    work.crops = [spec.find_crop(work.original) for spec in work.specs]
    work.removed = unpacked.kinds
    work.animated = info.frames > 1
    is_kept = work.animation and all(spec.animation == "keep" for spec in work.specs)
    if work.animated and not is_kept:
        work.warnings.add("animation_flattened")
    if "gain_map" in unpacked.kinds:
        work.warnings.add("hdr_gain_map_dropped")
    if declares_hdr(unpacked.colors):
        work.warnings.add("hdr_flattened")
    if not unpacked.has_end_mark:
        work.warnings.add("end_missing")

    largest_scale = max(crop.scale for crop in work.crops)
    sample_scale = SAMPLE_SIDE / max(stored)
    scale = min(1.0, max(REDUCING_GAP * largest_scale, sample_scale))
    at_least = Dimensions(ceil(stored.width * scale), ceil(stored.height * scale))
    work.image = decode(unpacked, info, work.limits, at_least)
    if info.format == "JPEG":
        work.stripped = _strip_jpeg(work, unpacked)


def describe_appearance(work: Work) -> None:
    """Find the colours, and make the placeholder, from a sample independent of the sizes."""
    work.has_alpha = is_translucent(work.image)
    sample, _ = to_srgb(take_sample(work.image))
    sample = upright(sample, work.orientation)
    work.palette = find_palette(sample)
    work.placeholder = make_placeholder(sample)


def shrink_to_largest(work: Work) -> None:
    """Shrink the image to the largest requested size.

    Converting colours and orientation then only costs as much as that size needs.
    """
    largest = max(work.crops, key=lambda crop: crop.pixel_ratio)
    size = _turn_if_sideways(largest.size, work.orientation)
    if largest.area != work.original or size == work.image.size:
        return
    work.image = shrink(work.image, size)


def convert_to_srgb(work: Work) -> None:
    """Convert the colours to 8-bit sRGB."""
    work.image, warnings = to_srgb(work.image)
    work.warnings.update(warnings)


def turn_upright(work: Work) -> None:
    """Rotate and mirror the image according to its EXIF orientation."""
    work.image = upright(work.image, work.orientation)
    work.orientation = 1


def resize_and_encode(work: Work) -> None:
    """Resize to each size, the largest first, and encode each while the next one is resized.

    One step does both to save wall-clock time: the largest size takes longest to encode and would
    otherwise wait for all the resizing, a tenth of the CPU time of a 12-megapixel photo
    (`python -m benchmarks pipeline`).
    """
    moving = [spec for spec in work.specs if work.animation and spec.animation == "keep"]
    still = [spec for spec in work.specs if spec not in moving]
    plain = [spec for spec in still if spec.is_plain]
    crops = [spec.find_crop(work.original) for spec in plain]
    with Encoders(work.threads) as encoders:
        for specs in _group_alike(moving, work.original):
            mark = _open_watermark(work, specs[0])
            encoders.run(partial(_encode_animation, work, specs, mark))
        for crop, image in resize_to_each(work.image, crops, work.original):
            specs = [spec for spec in plain if spec.find_crop(work.original) == crop]
            is_whole = crop.area == crop.size == work.original
            encoders.submit(image, specs, work.stripped if is_whole else None)
        for spec in still:
            if not spec.is_plain:
                encoders.submit(_transform(work, spec), [spec])
    work.variants = encoders.collect()
    if any(spec.is_scaled_down(work.original) for spec in plain):
        work.warnings.add("avif_scaled_down")
    # One size may exceed the image without a warning, because the largest one is usually just an
    # upper bound: "original" is 4096 px.
    too_large = sum(spec.exceeds(work.original) for spec in work.specs)
    if too_large > 1 or too_large == len(work.specs):
        work.warnings.add("not_enlarged")


def _strip_jpeg(work: Work, unpacked: Unpacked) -> bytes | None:
    """Return the JPEG without its metadata if it can serve as a variant, and one may ask for it."""
    if not any("jpeg" in spec.files.values() for spec in work.specs):
        return None
    data = unpacked.image.getvalue()
    looks_right = work.orientation == 1 and is_srgb(work.image)
    return data if looks_right and not is_arithmetic(data) else None


def _transform(work: Work, spec: VariantSpec) -> Image.Image:
    """Return the image with the operations of *spec* applied."""
    mark = _open_watermark(work, spec)
    image = apply(spec, work.image, work.original, mark, work.limits.max_pixels)
    size = spec.bound_pixels(Dimensions(*image.size))
    if size == image.size:
        return image
    work.warnings.add("avif_scaled_down")
    return resize(image, size)


def _group_alike(specs: Sequence[VariantSpec], original: Dimensions) -> list[list[VariantSpec]]:
    """Return *specs* in groups of those that give the same file, although their bounds differ."""
    groups: dict[object, list[VariantSpec]] = {}
    for spec in specs:
        key: object = spec
        if spec.is_plain:
            options = replace(spec, name="any", width=None, height=None, fit="inside")
            key = options, spec.find_crop(original)
        groups.setdefault(key, []).append(spec)
    return list(groups.values())


def _encode_animation(
    work: Work, specs: Sequence[VariantSpec], mark: Image.Image | None
) -> dict[str, Variant]:
    """Return the variant of the animation that all of *specs* are, by their names."""
    animation = work.animation
    assert animation is not None
    change = partial(
        apply,
        specs[0],
        original=work.original,
        mark=mark,
        max_pixels=work.limits.max_pixels // len(animation.frames),
        choices=Choices(),
    )
    variant = encode_animation(animation, specs[0], change)
    return {spec.name: variant for spec in specs}


def _open_watermark(work: Work, spec: VariantSpec) -> Image.Image | None:
    """Return the watermark of *spec*, decoded within the limits, upright and in sRGB."""
    name = spec.watermark_name
    if name is None:
        return None
    if name not in work.watermarks:
        known = ", ".join(sorted(work.watermarks)) or "there are none"
        raise InvalidTransformationError(f"Unknown watermark {name!r}. Known: {known}.")
    mark = Work(work.watermarks[name], [VariantSpec("watermark")], work.limits)
    try:
        for step in (decode_once, convert_to_srgb, turn_upright):
            step(mark)
    except InputError as error:
        raise InvalidTransformationError(f"Watermark {name!r} cannot be used: {error}") from error
    return mark.image


def _turn_if_sideways(size: Dimensions, orientation: int) -> Dimensions:
    """Convert a size between stored and upright, for an image with that *orientation*."""
    return size.turned() if swaps_sides(orientation) else size
