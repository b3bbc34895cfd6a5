"""The whole way of a picture: checked, decoded once, made sRGB and upright, resized step by step, encoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from imageprocessor.core.color import dominant_color_of, to_srgb
from imageprocessor.core.decode import decode
from imageprocessor.core.limits import Limits
from imageprocessor.core.memory import require_memory
from imageprocessor.core.orientation import upright
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.validate import validate
from imageprocessor.core.variants import DEFAULT_VARIANTS, Cut, Dimensions, Variant, VariantSpec
from imageprocessor.errors import InvalidVariantError

_THREAD_BYTES = 16 << 20  # a stack of 8 MiB on Linux, and what Python begins with
_ENCODER_OUT_OF_MEMORY = {"encoding error 1", "encoding error 2"}  # WebPEncodingError in libwebp's encode.h


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """What ``process`` made.

    ``variants`` is in the order asked; ``original_dimensions`` are those of the upright picture in pixels;
    ``warnings`` names what was lost on the way: "animation_flattened" (only the first frame is kept), "icc_invalid"
    (the colour profile is unusable and was ignored), "hdr_gain_map_dropped" (the standard-range picture is kept),
    "not_enlarged" (the picture is smaller than more than one size asks for, or than the only one). ``removed`` names,
    in alphabetical order, the metadata that the source had and no variant has: ``Metadata`` lists the names. A colour
    profile counts, because its colours have become sRGB.
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
) -> ProcessedImage:
    """Turn an untrusted upload into clean WebP files: upright, 8-bit sRGB, and with no metadata of the source.

    With the same versions of Pillow and libwebp, the same bytes give the same files.

    Raises:
        InvalidVariantError: no variant is asked for, or two of the same name.
        InputError: as ``validate`` does; also ``TruncatedImageError`` or ``InvalidImageError`` if decoding tells that
            the picture is cut or damaged.
        MemoryError: the picture needs more memory than there is.
    """
    _check_names(variants)
    picture, lost, removed = _open_upright(data, limits)
    original = Dimensions(*picture.size)
    stages = _resize_in_steps(picture, variants)
    jobs = []
    with ThreadPoolExecutor(os.cpu_count()) as encoders:
        for picture, specs in stages:  # from here on nothing holds the full size
            require_memory(_THREAD_BYTES, "for a thread")  # one that fails at its start is waited for forever
            jobs.append(encoders.submit(_encode_all, picture, specs))
        color = dominant_color_of(picture)
    made = {name: variant for job in jobs for name, variant in job.result().items()}
    if _is_small(original, variants):
        lost += ("not_enlarged",)
    return ProcessedImage({spec.name: made[spec.name] for spec in variants}, color, original, lost, removed)


def dominant_color(data: ImageSource, limits: Limits = Limits()) -> str:
    """Return the colour that a picture mostly shows, as ``"#RRGGBB"``: the same as ``process(data).dominant_color``.

    Raises:
        InputError: as ``process`` does.
    """
    picture, *_ = _open_upright(data, limits)
    [(smallest, _)] = deque(_resize_in_steps(picture, DEFAULT_VARIANTS), maxlen=1)
    return dominant_color_of(smallest)


def _check_names(variants: Sequence[VariantSpec]) -> None:
    names = [spec.name for spec in variants]
    if not names:
        raise InvalidVariantError("No size is asked for: give at least one VariantSpec.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidVariantError(f"Size names must differ, but {', '.join(twice)} occurs more than once.")


def _open_upright(data: ImageSource, limits: Limits) -> tuple[Image.Image, tuple[str, ...], tuple[str, ...]]:
    """Return the picture as it shall be seen, in sRGB, what was lost, and what metadata was removed."""
    with open_source(data) as file:
        info = validate(file, limits)
        image, orientation, kinds = decode(file, info, limits)
    image, lost = to_srgb(image)
    if info.frames > 1:
        lost = ("animation_flattened", *lost)
    if "gain_map" in kinds:
        lost = (*lost, "hdr_gain_map_dropped")
    return upright(image, orientation), lost, tuple(sorted(kinds))


def _resize_in_steps(
    picture: Image.Image, variants: Sequence[VariantSpec]
) -> Iterator[tuple[Image.Image, list[VariantSpec]]]:
    """Yield each picture to encode, largest scale first, with the variants that it serves.

    Each one is made from the last that was not cropped, which costs a fraction of making all from the full size.
    """
    source = Dimensions(*picture.size)
    served: dict[Cut, list[VariantSpec]] = {}
    for spec in variants:
        served.setdefault(spec.cut(source), []).append(spec)
    for cut in sorted(served, key=lambda cut: cut.scale, reverse=True):
        if cut.crop != source:
            yield _resize(picture, cut.size, _middle(picture, source, cut.crop)), served[cut]
            continue
        if cut.size != picture.size:
            picture = _resize(picture, cut.size)
        yield picture, served[cut]


def _resize(
    picture: Image.Image, size: Dimensions, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=1.5)


def _middle(picture: Image.Image, source: Dimensions, crop: Dimensions) -> tuple[float, float, float, float]:
    """Return the box in ``picture``, which is ``source`` made smaller, of a crop from the middle of ``source``."""
    across, down = picture.width / source.width, picture.height / source.height
    left, top = (source.width - crop.width) // 2, (source.height - crop.height) // 2
    right, bottom = min((left + crop.width) * across, picture.width), min((top + crop.height) * down, picture.height)
    return left * across, top * down, right, bottom


def _encode_all(picture: Image.Image, specs: Sequence[VariantSpec]) -> dict[str, Variant]:
    """Encode one picture for all variants that it serves, once for each pair of quality and effort."""
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
            raise MemoryError(f"There is no memory to encode {picture.width} x {picture.height} pixels.") from error
        raise
    return file.getvalue()


def _is_small(original: Dimensions, variants: Sequence[VariantSpec]) -> bool:
    """Tell whether more than one variant, or the only one, asks for more than there is; one is an upper bound."""
    short = sum(spec.asks_more_than(original) for spec in variants)
    return short > 1 or short == len(variants)
