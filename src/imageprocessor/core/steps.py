"""The steps of the pipeline in order. Each one modifies the ``Work`` that it receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from PIL import Image

from imageprocessor.core.color.conversion import dominant_color_of, to_srgb
from imageprocessor.core.color.spaces import declares_hdr
from imageprocessor.core.decode import decode, unpack
from imageprocessor.core.encode import Encoders
from imageprocessor.core.geometry import Crop, Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.orientation import swaps_sides, upright
from imageprocessor.core.quality import SourceFile
from imageprocessor.core.resize import REDUCING_GAP, resize_to_each, shrink
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.transformations.apply import apply
from imageprocessor.core.validate import validate
from imageprocessor.core.variants import Variant, VariantSpec
from imageprocessor.errors import InputError, InvalidTransformationError


@dataclass(slots=True)
class Work:
    """An image between steps: what was requested, and the results so far.

    Args:
        image: the pixels after the latest step.
        original: the size of the upright image in pixels, before any shrinking.
        source_file: what encoding depends on of the file that the image comes from.
        orientation: EXIF's, 1 to 8; 1 once the pixels are upright.
        crops: the crop of the upright image for each of *specs*.
    """

    source: ImageSource
    specs: Sequence[VariantSpec]
    limits: Limits
    threads: int = 1
    watermarks: Mapping[str, ImageSource] = field(default_factory=dict)

    image: Image.Image = field(init=False)
    original: Dimensions = field(init=False)
    source_file: SourceFile = field(init=False)
    orientation: int = field(init=False)
    crops: list[Crop] = field(init=False)
    dominant_color: str = field(init=False)
    variants: dict[str, Variant] = field(init=False)
    removed: frozenset[str] = field(init=False)
    warnings: set[str] = field(default_factory=set)


def decode_once(work: Work) -> None:
    """Check the header, then decode only as many pixels as the fine part of resizing needs."""
    with open_source(work.source) as file:
        info = validate(file, work.limits)
        unpacked = unpack(file, info)
    stored = Dimensions(info.width, info.height)
    work.orientation = unpacked.orientation
    work.original = _turn_if_sideways(stored, work.orientation)
    size_bytes = len(unpacked.image.getbuffer())
    work.source_file = SourceFile(work.original, size_bytes, unpacked.coding)
    work.crops = [spec.find_crop(work.original) for spec in work.specs]
    work.removed = unpacked.kinds
    if info.frames > 1:
        work.warnings.add("animation_flattened")
    if "gain_map" in unpacked.kinds:
        work.warnings.add("hdr_gain_map_dropped")
    if declares_hdr(unpacked.colors):
        work.warnings.add("hdr_flattened")
    if not unpacked.has_end_mark:
        work.warnings.add("end_missing")

    largest_scale = max(crop.scale for crop in work.crops)
    scale = min(1.0, REDUCING_GAP * largest_scale)
    at_least = Dimensions(ceil(stored.width * scale), ceil(stored.height * scale))
    work.image = decode(unpacked, info, work.limits, at_least)


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
    plain = [spec for spec in work.specs if spec.is_plain]
    crops = [spec.find_crop(work.original) for spec in plain]
    image = work.image
    with Encoders(work.threads, work.source_file) as encoders:
        for crop, image in resize_to_each(work.image, crops, work.original):
            specs = [spec for spec in plain if spec.find_crop(work.original) == crop]
            encoders.submit(image, specs)
        work.dominant_color = dominant_color_of(image)
        for spec in work.specs:
            if not spec.is_plain:
                encoders.submit(_transform(work, spec), [spec])
    work.variants = encoders.collect()
    for spec in work.specs:
        if spec.max_bytes is not None and work.variants[spec.name].size_bytes > spec.max_bytes:
            work.warnings.add("max_bytes_exceeded")
    # One size may exceed the image without a warning, because the largest one is usually just an
    # upper bound: "original" is 4096 px.
    too_large = sum(spec.exceeds(work.original) for spec in work.specs)
    if too_large > 1 or too_large == len(work.specs):
        work.warnings.add("not_enlarged")


def resize_to_smallest(work: Work) -> None:
    """Resize to each size, and keep the dominant colour of the smallest image."""
    images = [image for _, image in resize_to_each(work.image, work.crops, work.original)]
    work.dominant_color = dominant_color_of(images[-1])


def _transform(work: Work, spec: VariantSpec) -> Image.Image:
    """Return the image with the operations of *spec* applied."""
    name = spec.watermark_name
    mark = None if name is None else _open_watermark(name, work)
    return apply(spec, work.image, work.original, mark, work.limits.max_pixels)


def _open_watermark(name: str, work: Work) -> Image.Image:
    """Return a watermark as it is for any image: decoded within the limits, upright, in sRGB."""
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
