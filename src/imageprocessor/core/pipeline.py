"""The whole way of a picture.

Checked, decoded once, shrunk to what is needed, made sRGB and upright, encoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import NamedTuple

from PIL import Image

from imageprocessor.core.color import dominant_color_of, to_srgb
from imageprocessor.core.decode import Unpacked, decode, unpack
from imageprocessor.core.limits import Limits
from imageprocessor.core.memory import THREAD_BYTES, require_memory
from imageprocessor.core.orientation import swaps_sides, upright
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.validate import ImageInfo, validate
from imageprocessor.core.variants import DEFAULT_VARIANTS, Cut, Dimensions, Variant, VariantSpec
from imageprocessor.errors import InvalidVariantError

_REDUCING_GAP = 1.5
"""How much larger than its result a picture is left by the fast, coarse part of resizing."""

_BAND_ROWS = 256
_ENCODER_OUT_OF_MEMORY = {
    "encoding error 1",
    "encoding error 2",
}  # WebPEncodingError in libwebp's encode.h


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """What ``process`` made.

    ``variants`` is in the order asked; ``original_dimensions`` are those of the upright picture in
    pixels; ``warnings`` names what was lost on the way: "animation_flattened" (only the first frame
    is kept), "icc_invalid" (the colour profile is unusable and was ignored), "hdr_gain_map_dropped"
    (the standard-range picture is kept), "not_enlarged" (the picture is smaller than more than one
    size asks for, or than the only one). ``removed`` names,
    in alphabetical order, the metadata that the source had and no variant has: ``Metadata`` lists
    the names. A colour profile counts, because its colours have become sRGB.
    """

    variants: Mapping[str, Variant]
    dominant_color: str
    original_dimensions: Dimensions
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def process(
    data: ImageSource,
    variants: Sequence[VariantSpec] = DEFAULT_VARIANTS,
    limits: Limits = Limits(),
    threads: int | None = None,
) -> ProcessedImage:
    """Turn an untrusted upload into clean WebP files.

    Upright, 8-bit sRGB, and with no metadata of the source.

    With the same versions of Pillow and libwebp, the same bytes give the same files. They are
    encoded side by side in that many *threads*: None for one a processor, 1 for none besides the
    caller's.

    Raises:
        InvalidVariantError: no variant is asked for, or two of the same name.
        InputError: as ``validate`` does; also ``TruncatedImageError`` or ``InvalidImageError`` if
            decoding tells that
            the picture is cut or damaged.
        MemoryError: the picture needs more memory than there is.
    """
    _check_names(variants)
    picture, original, lost, removed = _open(data, variants, limits)
    made, color = _encode_stages(
        _resize_in_steps(picture, variants, original), threads or os.cpu_count() or 1
    )
    if _is_small(original, variants):
        lost += ("not_enlarged",)
    return ProcessedImage(
        {spec.name: made[spec.name] for spec in variants}, color, original, lost, removed
    )


def dominant_color(data: ImageSource, limits: Limits = Limits()) -> str:
    """Return the colour that a picture mostly shows, as ``"#RRGGBB"``.

    The same as ``process(data).dominant_color``.

    Raises:
        InputError: as ``process`` does.
    """
    picture, original, *_ = _open(data, DEFAULT_VARIANTS, limits)
    *_, (smallest, _) = _resize_in_steps(picture, DEFAULT_VARIANTS, original)
    return dominant_color_of(smallest)


def _check_names(variants: Sequence[VariantSpec]) -> None:
    names = [spec.name for spec in variants]
    if not names:
        raise InvalidVariantError("No size is asked for: give at least one VariantSpec.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidVariantError(
            f"Size names must differ, but {', '.join(twice)} occurs more than once."
        )


class _Opened(NamedTuple):
    """A picture as it shall be seen, no larger than need be, and what is told of it besides."""

    picture: Image.Image
    original: Dimensions
    lost: tuple[str, ...]
    removed: tuple[str, ...]


def _open(data: ImageSource, variants: Sequence[VariantSpec], limits: Limits) -> _Opened:
    with open_source(data) as file:
        info = validate(file, limits)
        unpacked = unpack(file, info)
    original = _turn_if_stored_so(Dimensions(info.width, info.height), unpacked.orientation)
    cuts = [spec.cut(original) for spec in variants]
    image, lost = to_srgb(
        _shrink(_decode_small(unpacked, info, limits, cuts), cuts, original, unpacked.orientation)
    )
    if info.frames > 1:
        lost = ("animation_flattened", *lost)
    if "gain_map" in unpacked.kinds:
        lost = (*lost, "hdr_gain_map_dropped")
    return _Opened(
        upright(image, unpacked.orientation), original, lost, tuple(sorted(unpacked.kinds))
    )


def _decode_small(
    unpacked: Unpacked, info: ImageInfo, limits: Limits, cuts: Sequence[Cut]
) -> Image.Image:
    """Decode no more pixels than the fine part of resizing wants."""
    share = min(1.0, _REDUCING_GAP * max(cut.share for cut in cuts))
    return decode(
        unpacked, info, limits, Dimensions(ceil(info.width * share), ceil(info.height * share))
    )


def _shrink(
    image: Image.Image, cuts: Sequence[Cut], original: Dimensions, orientation: int
) -> Image.Image:
    """Shrink the stored picture to the largest of its cuts.

    Before its colours and its orientation cost anything.
    """
    largest = max(cuts, key=lambda cut: cut.scale)
    size = _turn_if_stored_so(largest.size, orientation)
    if largest.crop != original or size == image.size:
        return image
    return _resize(image, size) if image.mode in ("LA", "RGBA") else _resize_in_bands(image, size)


def _turn_if_stored_so(size: Dimensions, orientation: int) -> Dimensions:
    return size.turned() if swaps_sides(orientation) else size


def _resize_in_steps(
    picture: Image.Image, variants: Sequence[VariantSpec], original: Dimensions
) -> Iterator[tuple[Image.Image, list[VariantSpec]]]:
    """Yield each picture to encode, largest scale first, with the variants that it serves.

    Each one is made from the last that was not cropped, which costs a fraction of making all from
    the full size.
    """
    served: dict[Cut, list[VariantSpec]] = {}
    for spec in variants:
        served.setdefault(spec.cut(original), []).append(spec)
    for cut in sorted(served, key=lambda cut: cut.scale, reverse=True):
        if cut.crop != original:
            yield _resize(picture, cut.size, _middle(picture, original, cut.crop)), served[cut]
            continue
        if cut.size != picture.size:
            picture = _resize(picture, cut.size)
        yield picture, served[cut]


def _resize(
    picture: Image.Image, size: Dimensions, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=_REDUCING_GAP)


def _resize_in_bands(picture: Image.Image, size: Dimensions) -> Image.Image:
    """Resize an opaque picture some rows at a time.

    At once, one of the new width and the old height lay between.

    The filter looks beyond each band, so nothing tells where they meet.
    """
    made = Image.new(picture.mode, size)
    made.info = picture.info  # its colour profile
    step = picture.height / size.height
    for top in range(0, size.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, size.height)
        box = 0, top * step, picture.width, min(bottom * step, picture.height)
        made.paste(_resize(picture, Dimensions(size.width, bottom - top), box), (0, top))
    return made


def _middle(
    picture: Image.Image, source: Dimensions, crop: Dimensions
) -> tuple[float, float, float, float]:
    """Return the box in ``picture``, which is ``source`` made smaller.

    Of a crop from the middle of ``source``.
    """
    across, down = picture.width / source.width, picture.height / source.height
    left, top = (source.width - crop.width) // 2, (source.height - crop.height) // 2
    right, bottom = (
        min((left + crop.width) * across, picture.width),
        min((top + crop.height) * down, picture.height),
    )
    return left * across, top * down, right, bottom


def _encode_stages(
    stages: Iterator[tuple[Image.Image, list[VariantSpec]]], threads: int
) -> tuple[dict[str, Variant], str]:
    """Encode every picture while the next ones are made.

    Return all variants and the last picture's main colour.
    """
    if threads == 1:
        made: dict[str, Variant] = {}
        for picture, specs in stages:
            made |= _encode_all(picture, specs)
        return made, dominant_color_of(picture)
    jobs = []
    with ThreadPoolExecutor(threads) as encoders:
        for picture, specs in stages:
            require_memory(THREAD_BYTES, "for a thread")
            jobs.append(encoders.submit(_encode_all, picture, specs))
        color = dominant_color_of(picture)
    return {name: variant for job in jobs for name, variant in job.result().items()}, color


def _encode_all(picture: Image.Image, specs: Sequence[VariantSpec]) -> dict[str, Variant]:
    """Encode one picture for all variants that it serves.

    Once for each pair of quality and effort.
    """
    made: dict[tuple[int, int], Variant] = {}
    variants = {}
    for spec in specs:
        options = spec.quality, spec.effort_for(picture.width)
        if options not in made:
            made[options] = Variant(_encode(picture, *options), *picture.size)
        variants[spec.name] = made[options]
    return variants


def _encode(picture: Image.Image, quality: int, effort: int) -> bytes:
    file = BytesIO()
    try:
        picture.save(file, "WEBP", quality=quality, method=effort)
    except ValueError as error:
        if str(error) in _ENCODER_OUT_OF_MEMORY:
            raise MemoryError(
                f"There is no memory to encode {picture.width} x {picture.height} pixels."
            ) from error
        raise
    return file.getvalue()


def _is_small(original: Dimensions, variants: Sequence[VariantSpec]) -> bool:
    """Tell whether more than one variant, or the only one, asks for more than there is.

    One is an upper bound.
    """
    short = sum(spec.asks_more_than(original) for spec in variants)
    return short > 1 or short == len(variants)
