"""Processing an untrusted upload into clean files: the order of the steps, and the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imageprocessor.core.appearance.placeholder import Placeholder
from imageprocessor.core.formats.registry import DEFAULT_OUTPUT
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits
from imageprocessor.core.source import ImageSource
from imageprocessor.core.steps import (
    Work,
    convert_to_srgb,
    decode_once,
    describe_appearance,
    resize_and_encode,
    shrink_to_largest,
    turn_upright,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.core.variants import DEFAULT_VARIANTS, Variant, VariantSpec, name_alternate
from imageprocessor.errors import InvalidVariantError

Step = Callable[[Work], None]

STEPS: tuple[Step, ...] = (
    decode_once,
    describe_appearance,
    shrink_to_largest,
    convert_to_srgb,
    turn_upright,
    resize_and_encode,
)
"""The steps of ``process``. To add one, write a function in ``core.steps`` and list it here."""

WARNINGS = (
    "animation_flattened",
    "icc_invalid",
    "hdr_gain_map_dropped",
    "hdr_flattened",
    "not_enlarged",
    "end_missing",
    "avif_scaled_down",
    "max_bytes_exceeded",
)
"""All warnings, in the order in which a result lists them."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """The result of ``process``.

    ``variants`` is in the requested order. ``palette`` has up to five colours of the opaque pixels,
    the most frequent first, which is also ``dominant_color``: ``"#FFFFFF"`` if there are none. For
    a JPEG, they may depend slightly on the largest size. ``has_alpha`` says whether some pixel of
    the source is not opaque, ``animated`` whether it has more than one frame.
    ``original_dimensions`` is the size of the upright image in pixels. ``warnings`` names what was
    lost: "animation_flattened" (a size has only the first frame), "icc_invalid" (the colour profile
    is unusable and was ignored), "hdr_gain_map_dropped" (only the standard-range image is kept),
    "hdr_flattened" (light brighter than white paper became white), "not_enlarged" (the image is
    smaller than at least two of the requested sizes, or than the only one), "end_missing" (all
    pixels are there, but not the mark behind them), "avif_scaled_down" (an AVIF would have had more
    than 4.2 megapixels), "max_bytes_exceeded" (no quality keeps a variant within its
    ``max_bytes``). ``removed`` names, in alphabetical order, the metadata that was in the
    source and is in no variant; ``Metadata`` lists the names. It includes a colour profile, because
    the colours were converted to sRGB. ``responsive`` names, the narrowest first, the variants that
    show the whole image alike, so that a browser may choose among them.
    """

    variants: Mapping[str, Variant]
    palette: tuple[str, ...]
    placeholder: Placeholder
    has_alpha: bool
    animated: bool
    original_dimensions: Dimensions
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    responsive: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, Variant]:
        """All files: the variants by name, each followed by its alternates, as "card.webp"."""
        files = {}
        for name, variant in self.variants.items():
            files[name] = variant
            for alternate in variant.alternates:
                files[name_alternate(name, alternate.format)] = alternate
        return files

    @property
    def dominant_color(self) -> str:
        """The most frequent colour as ``"#RRGGBB"``."""
        return _first_color(self.palette)

    def describe(self) -> dict[str, Any]:
        """Return everything except the bytes, ready for JSON, as stored and sent to clients."""
        variants = {name: variant.describe() for name, variant in self.variants.items()}
        appearance = {
            "dominant_color": self.dominant_color,
            "palette": list(self.palette),
            "placeholder": asdict(self.placeholder),
            "has_alpha": self.has_alpha,
            "animated": self.animated,
        }
        return {
            **appearance,
            "original_dimensions": self.original_dimensions._asdict(),
            "variants": variants,
            "warnings": list(self.warnings),
            "removed": list(self.removed),
            "responsive": list(self.responsive),
        }


@dataclass(frozen=True, slots=True)
class TransformedImage(Variant):
    """The result of ``transform``: a variant, and ``warnings``, as ``ProcessedImage`` has them."""

    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return everything except the bytes, ready for JSON."""
        # Not super(): dataclass makes a new class because of the slots.
        return {**Variant.describe(self), "warnings": list(self.warnings)}


def process(
    data: ImageSource,
    variants: Sequence[VariantSpec] = DEFAULT_VARIANTS,
    limits: Limits = Limits(),
    threads: int | None = None,
    watermarks: Mapping[str, ImageSource] | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> ProcessedImage:
    """Turn an untrusted upload into clean files: upright, 8-bit sRGB, without metadata.

    With the same versions of Pillow and its codecs, the same bytes give the same files. They are
    encoded in *threads* parallel threads: None means one per processor, 1 means only the caller's.
    *watermarks* are the images that the variants may name. *on_step* is called after each of STEPS,
    with its name and when it began, by ``time.perf_counter``.

    A JPEG requested as JPEG in its own size, without a quality or operations, is not encoded again:
    it only loses its metadata, if it is upright and in sRGB.

    Raises:
        InvalidVariantError: No variant is requested, two have the same name, or this build of
            Pillow lacks the encoder.
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
    in_requested_order = {spec.name: work.variants[spec.name] for spec in variants}
    warnings = tuple(name for name in WARNINGS if name in work.warnings)
    return ProcessedImage(
        variants=in_requested_order,
        palette=work.palette,
        placeholder=work.placeholder,
        has_alpha=work.has_alpha,
        animated=work.animated,
        original_dimensions=work.original,
        warnings=warnings,
        removed=tuple(sorted(work.removed)),
        responsive=_list_responsive(work),
    )


def transform(
    data: ImageSource,
    operations: str | Transformation,
    limits: Limits = Limits(),
    watermarks: Mapping[str, ImageSource] | None = None,
    *,
    format: str = DEFAULT_OUTPUT,  # noqa: A002 - as in VariantSpec
) -> TransformedImage:
    """Return an untrusted upload as one clean file with *operations* applied.

    *format*: "webp", "avif", "jpeg" or "png".

    >>> transform(b"GIF89a", "w_400,rot_45")
    Traceback (most recent call last):
    imageprocessor.errors.InvalidTransformationError: rot is '45'. Use 0, 90, 180 or 270.

    Raises:
        InvalidTransformationError: An operation is wrong, or does not suit the image.
        InvalidVariantError: *format* is unknown.
        InputError: The same errors as ``process``.
    """
    if isinstance(operations, str):
        operations = Transformation.parse(operations)
    options = operations.list_changes()
    spec = VariantSpec("result", format=format, **options)
    result = process(data, [spec], limits, threads=1, watermarks=watermarks)
    variant = result.variants[spec.name]
    return TransformedImage(
        variant.data,
        variant.width,
        variant.height,
        variant.format,
        variant.frames,
        variant.duration_seconds,
        warnings=result.warnings,
    )


def dominant_color(data: ImageSource, limits: Limits = Limits()) -> str:
    """Return the most frequent colour of an image as ``"#RRGGBB"``.

    It is the same as ``process(data).dominant_color``.

    Raises:
        InputError: The same errors as ``process``.
    """
    work = Work(data, DEFAULT_VARIANTS, limits)
    for step in (decode_once, describe_appearance):
        step(work)
    return _first_color(work.palette)


def _first_color(palette: Sequence[str]) -> str:
    """Return the first colour, or white for an image without an opaque pixel."""
    return palette[0] if palette else "#FFFFFF"


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


def _list_responsive(work: Work) -> tuple[str, ...]:
    """Return the variants that show the whole image, with the operations of the widest of them.

    If that one moves, all of them do.
    """
    whole = []
    for spec in work.specs:
        is_cut = spec.crop is not None or spec.trim
        if not is_cut and _has_aspect(work.variants[spec.name], work.original):
            whole.append(spec)
    if not whole:
        return ()
    by_width = sorted(whole, key=lambda spec: work.variants[spec.name].width)
    widest = by_width[-1]
    moves = work.variants[widest.name].frames > 1
    alike = []
    for spec in by_width:
        is_alike = (work.variants[spec.name].frames > 1) == moves
        if is_alike and spec.look == widest.look:
            alike.append(spec.name)
    return tuple(alike)


def _has_aspect(variant: Variant, original: Dimensions) -> bool:
    """Return whether a variant has the aspect ratio of the original, to one pixel."""
    width = variant.height * original.width / original.height
    height = variant.width * original.height / original.width
    return abs(variant.width - width) <= 1 or abs(variant.height - height) <= 1
