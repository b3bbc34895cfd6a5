"""From an untrusted upload to clean files: the steps in their order, and what comes out of them."""

from __future__ import annotations

import os
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
"""What ``process`` does. A further step is a function in ``core.steps`` and a line here."""

COLOR_STEPS = (*STEPS[:-1], resize_to_smallest)
"""What ``dominant_color`` does."""

WARNINGS = (
    "animation_flattened",
    "icc_invalid",
    "hdr_gain_map_dropped",
    "not_enlarged",
)
"""In the order in which a result lists them."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """The result of ``process``.

    ``variants`` is in the order asked; ``original_dimensions`` are those of the upright image in
    pixels; ``warnings`` names what was lost on the way: "animation_flattened" (only the first frame
    is kept), "icc_invalid" (the colour profile is unusable and was ignored), "hdr_gain_map_dropped"
    (the standard-range image is kept), "not_enlarged" (the image is smaller than more than one
    size asks for, or than the only one). ``removed`` names, in alphabetical order, the metadata
    that the source had and no variant has: ``Metadata`` lists the names. A colour profile counts,
    because its colours have become sRGB.
    """

    variants: Mapping[str, Variant]
    dominant_color: str
    original_dimensions: Dimensions
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return everything but the bytes, ready for JSON: the database and all answers use it."""
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
) -> ProcessedImage:
    """Turn an untrusted upload into clean WebP files: upright, 8-bit sRGB, without its metadata.

    With the same versions of Pillow and libwebp, the same bytes give the same files. They are
    encoded side by side in that many *threads*: None for one a processor, 1 for none besides the
    caller's.

    Raises:
        InvalidVariantError: no variant is asked for, or two of the same name.
        InputError: as ``validate`` does; also ``TruncatedImageError`` or ``InvalidImageError`` if
            decoding shows that the image is cut or damaged.
        MemoryError: the image needs more memory than there is.
    """
    _check_names(variants)
    work = Work(data, variants, limits, threads or os.cpu_count() or 1)
    for step in STEPS:
        step(work)
    in_order_asked = {spec.name: work.variants[spec.name] for spec in variants}
    warnings = tuple(name for name in WARNINGS if name in work.warnings)
    removed = tuple(sorted(work.removed))
    return ProcessedImage(
        in_order_asked, work.dominant_color, work.original, warnings=warnings, removed=removed
    )


def dominant_color(data: ImageSource, limits: Limits = Limits()) -> str:
    """Return the most frequent colour of an image as ``"#RRGGBB"``.

    The same as ``process(data).dominant_color``.

    Raises:
        InputError: as ``process`` does.
    """
    work = Work(data, DEFAULT_VARIANTS, limits)
    for step in COLOR_STEPS:
        step(work)
    return work.dominant_color


def _check_names(variants: Sequence[VariantSpec]) -> None:
    """Raise ``InvalidVariantError`` unless there are names, and each is there once."""
    names = [spec.name for spec in variants]
    if not names:
        raise InvalidVariantError("No size is asked for: give at least one VariantSpec.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidVariantError(
            f"Size names must differ, but {', '.join(repeated)} occurs more than once."
        )
