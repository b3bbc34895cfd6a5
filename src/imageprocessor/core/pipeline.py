"""Processing an untrusted upload into clean files: the order of the steps, and the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.source import ImageSource
from imageprocessor.core.steps import (
    Work,
    convert_to_srgb,
    decode_once,
    resize_and_encode,
    resize_to_smallest,
    shrink_to_largest,
    turn_upright,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.core.variants import DEFAULT_VARIANTS, Variant, VariantSpec
from imageprocessor.errors import InvalidVariantError

Step = Callable[[Work], None]

STEPS: tuple[Step, ...] = (
    decode_once,
    shrink_to_largest,
    convert_to_srgb,
    turn_upright,
    resize_and_encode,
)
"""The steps of ``process``. To add one, write a function in ``core.steps`` and list it here."""

COLOR_STEPS = (*STEPS[:-1], resize_to_smallest)
"""The steps of ``dominant_color``."""

WARNINGS = (
    "animation_flattened",
    "icc_invalid",
    "hdr_gain_map_dropped",
    "hdr_flattened",
    "not_enlarged",
    "end_missing",
)
"""All warnings, in the order in which a result lists them."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """The result of ``process``.

    ``variants`` is in the requested order. ``original_dimensions`` is the size of the upright image
    in pixels. ``warnings`` names what was lost: "animation_flattened" (only the first frame is
    kept), "icc_invalid" (the colour profile is unusable and was ignored), "hdr_gain_map_dropped"
    (only the standard-range image is kept), "hdr_flattened" (light brighter than white paper became
    white), "not_enlarged" (the image is smaller than at least two of the requested sizes, or than
    the only one), "end_missing" (all pixels are there, but not the mark behind them). ``removed``
    names, in alphabetical order, the metadata that was in the source and is in no variant;
    ``Metadata`` lists the names. It includes a colour profile, because the colours were converted
    to sRGB.
    """

    variants: Mapping[str, Variant]
    dominant_color: str
    original_dimensions: Dimensions
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return everything except the bytes, ready for JSON, as stored and sent to clients."""
        variants = {name: variant.describe() for name, variant in self.variants.items()}
        return {
            "dominant_color": self.dominant_color,
            "original_dimensions": self.original_dimensions._asdict(),
            "variants": variants,
            "warnings": list(self.warnings),
            "removed": list(self.removed),
        }


def process(
    data: ImageSource,
    variants: Sequence[VariantSpec] = DEFAULT_VARIANTS,
    limits: Limits = Limits(),
    threads: int | None = None,
    watermarks: Mapping[str, ImageSource] | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> ProcessedImage:
    """Turn an untrusted upload into clean WebP files: upright, 8-bit sRGB, without metadata.

    With the same versions of Pillow and libwebp, the same bytes give the same files. The files are
    encoded in *threads* parallel threads: None means one per processor, 1 means only the caller's.
    *watermarks* are the images that the variants may name. *on_step* is called after each of STEPS,
    with its name and when it began, by ``time.perf_counter``.

    Raises:
        InvalidVariantError: No variant is requested, or two have the same name.
        InvalidTransformationError: A variant's operations do not suit the image: a crop is not
            within it, a watermark is unknown, or the result would be too large.
        InputError: The same errors as ``validate``; also ``TruncatedImageError`` or
            ``InvalidImageError`` if decoding shows that the image is truncated or damaged.
        MemoryError: The image needs more memory than is available.
    """
    _check_names(variants)
    work = Work(data, variants, limits, threads or os.cpu_count() or 1, watermarks or {})
    for step in STEPS:
        started = time.perf_counter()
        step(work)
        if on_step:
            on_step(step.__name__, started)
    in_order_asked = {spec.name: work.variants[spec.name] for spec in variants}
    warnings = tuple(name for name in WARNINGS if name in work.warnings)
    removed = tuple(sorted(work.removed))
    return ProcessedImage(
        in_order_asked, work.dominant_color, work.original, warnings=warnings, removed=removed
    )


def transform(
    data: ImageSource,
    operations: str | Transformation,
    limits: Limits = Limits(),
    watermarks: Mapping[str, ImageSource] | None = None,
) -> Variant:
    """Return an untrusted upload as one clean WebP file with *operations* applied.

    >>> transform(b"GIF89a", "w_400,rot_45")
    Traceback (most recent call last):
    imageprocessor.errors.InvalidTransformationError: rot is '45'. Use 0, 90, 180 or 270.

    Raises:
        InvalidTransformationError: An operation is wrong, or does not suit the image.
        InputError: The same errors as ``process``.
    """
    if isinstance(operations, str):
        operations = Transformation.parse(operations)
    options = operations.list_changes()
    spec = VariantSpec("result", **options)
    return process(data, [spec], limits, threads=1, watermarks=watermarks).variants[spec.name]


def dominant_color(data: ImageSource, limits: Limits = Limits()) -> str:
    """Return the most frequent colour of an image as ``"#RRGGBB"``.

    It is the same as ``process(data).dominant_color``.

    Raises:
        InputError: The same errors as ``process``.
    """
    work = Work(data, DEFAULT_VARIANTS, limits)
    for step in COLOR_STEPS:
        step(work)
    return work.dominant_color


def _check_names(variants: Sequence[VariantSpec]) -> None:
    """Raise ``InvalidVariantError`` if there are no variants, or names are not unique."""
    names = [spec.name for spec in variants]
    if not names:
        raise InvalidVariantError("No sizes were given. Give at least one VariantSpec.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidVariantError(
            f"Size names must be unique, but these occur more than once: {', '.join(repeated)}."
        )
