"""The variants to make of an image: their specification and their result."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, NoReturn

from imageprocessor.core.formats.registry import OUTPUT_FORMAT
from imageprocessor.core.geometry import Crop, Dimensions
from imageprocessor.core.transformations.geometry import (
    find_bounds,
    find_cropped,
    find_needed,
    plan_resize,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.errors import InvalidVariantError

DEFAULT_QUALITY = 85
DEFAULT_SIZES = {"thumbnail": 150, "medium": 600, "large": 1200, "original": 4096}
"""Upper bounds of the width in pixels, by name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PLAIN = {"name", "width", "height", "fit", "quality", "lossless", "max_bytes", "effort"}
_WIDE = 2048


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass(frozen=True, repr=False)
class VariantSpec(Transformation, _Named):
    """One size to make of an image: a transformation with a name.

    Args:
        name: the name of the size, which becomes part of paths: lower-case letters, digits, ``-``
            and ``_``.
        width: upper bound of the width in pixels.
        height: upper bound of the height in pixels.
        fit: ``"inside"`` keeps the whole image within the bounds; ``"cover"`` fills width × height
            exactly and crops the rest, evenly on both sides. Neither enlarges.
        quality: the highest quality to use, 1 to 100, or "auto"; see ``Transformation``.
        effort: WebP effort, 0 (fast) to 6 (small). None means 2 for an output wider than 2048 px
            and 4 otherwise: for a wide output, 2 takes 0.4 times as long as 4 and 6 % more bytes at
            equal SSIM (docs/benchmarks.md).

    ``Transformation`` describes the other options. Without a width and a height, the image keeps
    its size.

    Raises:
        InvalidVariantError: A value is out of range.

    >>> VariantSpec("card", width=400, quality=80).find_crop(Dimensions(3024, 4032)).size
    Dimensions(width=400, height=533)
    >>> VariantSpec("Card", width=400)
    Traceback (most recent call last):
    imageprocessor.errors.InvalidVariantError: Size name 'Card' is not valid. Use 1 to 32 of ...
    """

    _: KW_ONLY
    quality: int | Literal["auto"] = DEFAULT_QUALITY
    effort: int | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise InvalidVariantError(
                f"Size name {self.name!r:.80} is not valid. Use 1 to 32 of a-z, 0-9, '_' and '-', "
                "starting with a letter or a digit."
            )
        super().__post_init__()
        if self.effort is not None and (type(self.effort) is not int or not 0 <= self.effort <= 6):
            self._fail(f"effort is {self.effort!r:.80}. Use a whole number from 0 to 6.")

    @property
    def is_plain(self) -> bool:
        """Return whether this only bounds the size, as ``resize_to_each`` can do for many sizes."""
        is_simple_fit = self.fit in ("inside", "cover")
        return is_simple_fit and self.list_changes().keys() <= _PLAIN

    def find_crop(self, source: Dimensions) -> Crop:
        """Return the area to keep of an image of size *source*, and the size of the result.

        The result keeps the area's aspect ratio, with sides rounded (halves to even) and at least
        1 px. No side is longer than its bound, the source's side, or WebP's limit of 16 383 px.

        With other operations than bounds, return what they need of the image.
        """
        if not self.is_plain:
            return find_needed(self, source)
        plan = plan_resize(self, source)
        return Crop(plan.area, plan.size)

    def find_scale(self, source: Dimensions) -> float:
        """Return the length in the result of 1 px in an image of size *source*."""
        plan = plan_resize(self, find_cropped(self, source))
        return Crop(plan.area, plan.size).scale

    def exceeds(self, source: Dimensions) -> bool:
        """Return whether an image of size *source* is too small to reach the bounds."""
        source = find_cropped(self, source)
        width, height = find_bounds(self, source)
        if self.enlarge or (width is None and height is None):
            return False
        is_wider = width is not None and width > source.width
        is_higher = height is not None and height > source.height
        if self.fit in ("cover", "fill"):
            return is_wider or is_higher
        return (is_wider or width is None) and (is_higher or height is None)

    def effort_for(self, width: int) -> int:
        """Return the WebP effort for an output of that width in pixels."""
        if self.effort is not None:
            return self.effort
        return 2 if width > _WIDE else 4

    def _fail(self, fault: str) -> NoReturn:
        raise InvalidVariantError(f"Size {self.name!r}: {fault}")


@dataclass(frozen=True, slots=True)
class Variant:
    """One finished size of an image: an encoded file and its dimensions in pixels.

    The repr leaves out the file, which may have megabytes.

    >>> Variant(b"RIFF...", width=150, height=200).aspect_ratio
    0.75
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    format: str = OUTPUT_FORMAT.name.lower()

    @property
    def aspect_ratio(self) -> float:
        """Width divided by height, to four decimals."""
        return round(self.width / self.height, 4)

    @property
    def size_bytes(self) -> int:
        """The length of the encoded file."""
        return len(self.data)

    def describe(self) -> dict[str, int | float | str]:
        """Return everything except the bytes, ready for JSON."""
        return {
            "width": self.width,
            "height": self.height,
            "aspect_ratio": self.aspect_ratio,
            "format": self.format,
            "size_bytes": self.size_bytes,
        }


DEFAULT_VARIANTS = tuple(VariantSpec(name, width=width) for name, width in DEFAULT_SIZES.items())
"""The sizes that are made if no others are requested."""
