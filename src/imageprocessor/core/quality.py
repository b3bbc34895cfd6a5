"""Which quality a variant is encoded at, and whether without loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageChops

from imageprocessor.core.formats.container import Coding
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import ImageFormat
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.likeness import compare
from imageprocessor.core.variants import DEFAULT_QUALITY, VariantSpec

AUTO_LIKENESS = 0.97
"""The likeness to the image that ``quality="auto"`` keeps, as ``likeness.compare`` returns it."""

MOST_TRIES = 5
"""How often a search for a quality may encode."""

_AUTO_RANGE = 25
"""How much lower than a format's usual quality "auto" goes: below, smooth areas get steps, which
the likeness hardly shows."""

_LEAST_QUALITY = 20
"""The quality of a JPEG does not lead lower."""

_UNSCALED = 0.75
"""From this scale on, a variant shows what its lossy source lost: a higher quality is wasted."""

_LOWER = 12
"""How much lower a file that is larger than its source is encoded once more."""

_LOSSLESS_FACTOR = 1.25
"""How much larger than the lossy file of a graphic the lossless one, which looks better, may be."""

_OVERHEAD_BYTES = 1000
"""What a lossless file may have besides its pixels, such as a palette."""

_SAMPLED_ROWS = 64

MOST_LOSSLESS_PIXELS = 8_400_000
"""The encoder needs 33 bytes per pixel: a worker has to do with 360 MB, see docs/capacity.md."""

_Encode = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """What encoding depends on of the file that an image comes from.

    Args:
        size: the size of the upright image in pixels.
        size_bytes: the length of the file without its metadata.
    """

    size: Dimensions
    size_bytes: int
    coding: Coding


class _Coded(NamedTuple):
    """A file, and the quality at which it is encoded."""

    quality: int
    data: bytes


def encode_best(
    image: Image.Image,
    image_format: ImageFormat,
    spec: VariantSpec,
    source: SourceFile,
    is_largest_lossless: Callable[[], bool] | None = None,
) -> bytes:
    """Return *image* as the file in *image_format* that *spec* asks for.

    *is_largest_lossless* returns whether the largest variant of the same image became lossless; it
    may wait for that. None means that this is the largest one.
    """
    encoder = image_format.encode
    assert encoder is not None
    effort = spec.effort_for(image.width)

    def encode(quality: int) -> bytes:
        return encoder(image, Encoding(quality, effort))

    def encode_lossless() -> bytes:
        return encoder(image, Encoding(DEFAULT_QUALITY, effort, lossless=True))

    is_optional = image_format.loss == "optional"
    if image_format.loss == "never" or (is_optional and spec.lossless is True):
        return encode_lossless()
    coded = _encode_lossy(encode, image, image_format, spec, source)
    if is_optional and may_become_lossless(image, spec, source):
        if is_largest_lossless is None:
            is_likely = _is_graphic(image, len(coded.data), source)
        else:
            is_likely = is_largest_lossless()
        lossless = encode_lossless() if is_likely else None
        most = _LOSSLESS_FACTOR * len(coded.data)
        if lossless is not None and len(lossless) <= min(most, spec.max_bytes or most):
            return lossless
    if spec.max_bytes is not None and len(coded.data) > spec.max_bytes:
        return _shrink(encode, coded, spec.max_bytes)
    return coded.data


def may_become_lossless(image: Image.Image, spec: VariantSpec, source: SourceFile) -> bool:
    """Return whether *spec* leaves it to us, and *image* is from a lossless file and not too large.

    A lossy source has noise at its edges, which takes much space to keep.
    """
    is_small = image.width * image.height <= MOST_LOSSLESS_PIXELS
    return spec.lossless == "auto" and source.coding.is_lossless and is_small


def _encode_lossy(
    encode: _Encode,
    image: Image.Image,
    image_format: ImageFormat,
    spec: VariantSpec,
    source: SourceFile,
) -> _Coded:
    """Return the file of the quality that *spec* asks for, or lower if the source has no more."""
    scale = spec.find_scale(source.size)
    shows_loss = scale >= _UNSCALED and not source.coding.is_lossless
    default = image_format.quality or DEFAULT_QUALITY
    wanted = spec.quality_for(image_format.name.lower())
    highest = default if wanted == "auto" else wanted
    source_quality = source.coding.jpeg_quality
    if shows_loss and source_quality is not None and image_format.below_jpeg is not None:
        as_good = max(source_quality - image_format.below_jpeg, _LEAST_QUALITY)
        highest = min(highest, as_good)
    if wanted == "auto":
        lowest = min(default - _AUTO_RANGE, highest)
        coded = _find_alike(encode, image, lowest, highest)
    else:
        coded = _Coded(highest, encode(highest))
    reaches_source = len(coded.data) >= source.size_bytes and not source.coding.is_denser
    if shows_loss and scale <= 1 and reaches_source:
        lower = max(coded.quality - _LOWER, 1)
        coded = _Coded(lower, encode(lower))
    return coded


def _find_alike(encode: _Encode, image: Image.Image, lowest: int, highest: int) -> _Coded:
    """Return the file of the lowest quality that keeps the likeness, or of the highest tried."""
    different, alike = _bisect(
        encode,
        lambda data: compare(image, data) >= AUTO_LIKENESS,
        lowest,
        highest,
    )
    return min(alike) if alike else max(different)


def _shrink(encode: _Encode, coded: _Coded, max_bytes: int) -> bytes:
    """Return the file of the highest quality within *max_bytes*, or the smallest one tried."""
    fitting, larger = _bisect(encode, lambda data: len(data) > max_bytes, 1, coded.quality - 1)
    if fitting:
        return max(fitting).data
    return min((each.data for each in [*larger, coded]), key=len)


def _bisect(
    encode: _Encode, is_enough: Callable[[bytes], bool], lowest: int, highest: int
) -> tuple[list[_Coded], list[_Coded]]:
    """Return files of qualities from *lowest* to *highest*: those too low, and those high enough.

    The last ones tried are next to where the qualities become high enough, by 2 or less.
    """
    too_low, enough = [], []
    for _ in range(MOST_TRIES):
        if lowest > highest:
            break
        quality = (lowest + highest) // 2
        coded = _Coded(quality, encode(quality))
        if is_enough(coded.data):
            enough.append(coded)
            highest = quality - 1
        else:
            too_low.append(coded)
            lowest = quality + 1
    return too_low, enough


def _is_graphic(image: Image.Image, lossy_bytes: int, source: SourceFile) -> bool:
    """Return whether the lossless file of *image* may be small enough.

    The length of its lossless source shows it. A source of more than half a byte per pixel is
    noisy, which would take seconds, or hardly compressed: then many pixels equal their neighbours.
    """
    pixels = image.width * image.height
    source_pixels = source.size.width * source.size.height
    source_bytes = (source.size_bytes - _OVERHEAD_BYTES) * pixels / source_pixels
    if source_bytes > pixels / 2:
        return _has_equal_neighbours(image)
    return source_bytes <= source.coding.waste * _LOSSLESS_FACTOR * lossy_bytes


def _has_equal_neighbours(image: Image.Image) -> bool:
    """Return whether at least half of the pixels equal the next one, in a sample of rows."""
    rows = image.resize((image.width, _SAMPLED_ROWS), Image.Resampling.NEAREST)
    left = rows.crop((0, 0, image.width - 1, _SAMPLED_ROWS))
    right = rows.crop((1, 0, image.width, _SAMPLED_ROWS))
    first, *others = ImageChops.difference(left, right).split()
    for band in others:
        first = ImageChops.lighter(first, band)
    return 2 * first.histogram()[0] >= left.width * left.height
