"""The variants to make of an image: their specification and their result."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from imageprocessor.core.formats.registry import OUTPUT_FORMAT
from imageprocessor.core.geometry import Crop, Dimensions, fit_inside, largest_crop
from imageprocessor.errors import InvalidVariantError

DEFAULT_QUALITY = 85
DEFAULT_SIZES = {"thumbnail": 150, "medium": 600, "large": 1200, "original": 4096}
"""Upper bounds of the width in pixels, by name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_FITS = ("inside", "cover")
_WIDE = 2048


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """One size to make of an image.

    Args:
        name: the name of the size, which becomes part of paths: lower-case letters, digits, ``-``
            and ``_``.
        width: upper bound of the width in pixels.
        height: upper bound of the height in pixels.
        fit: ``"inside"`` keeps the whole image within the bounds; ``"cover"`` fills width × height
            exactly and crops the rest, evenly on both sides. Neither enlarges.
        quality: WebP quality, 1 to 100.
        effort: WebP effort, 0 (fast) to 6 (small). None means 2 for an output wider than 2048 px
            and 4 otherwise: for a wide output, 2 takes 0.4 times as long as 4 and 6 % more bytes at
            equal SSIM (docs/benchmarks.md).

    Raises:
        InvalidVariantError: A value is out of range.

    >>> VariantSpec("card", width=400, quality=80).crop(Dimensions(3024, 4032)).size
    Dimensions(width=400, height=533)
    >>> VariantSpec("Card", width=400)
    Traceback (most recent call last):
    imageprocessor.errors.InvalidVariantError: Size name 'Card' is not valid. Use 1 to 32 of ...
    """

    name: str
    width: int | None = None
    height: int | None = None
    fit: Literal["inside", "cover"] = "inside"
    quality: int = DEFAULT_QUALITY
    effort: int | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise InvalidVariantError(
                f"Size name {self.name!r:.80} is not valid. Use 1 to 32 of a-z, 0-9, '_' and '-', "
                "starting with a letter or a digit."
            )
        self._check_number("width", 1, None)
        self._check_number("height", 1, None)
        self._check_number("effort", 0, 6)
        self._check_number("quality", 1, 100)
        if self.fit not in _FITS:
            raise InvalidVariantError(
                f"Size {self.name!r}: fit is {self.fit!r:.80}. Use 'inside' or 'cover'."
            )
        if self.fit == "cover" and None in (self.width, self.height):
            raise InvalidVariantError(
                f"Size {self.name!r}: fit 'cover' needs both a width and a height."
            )
        if self.width is None and self.height is None:
            raise InvalidVariantError(
                f"Size {self.name!r} has no bounds. Give a width, a height or both."
            )

    def crop(self, source: Dimensions) -> Crop:
        """Return the area to keep of an image of size *source*, and the size of the result.

        The result keeps the area's aspect ratio, with sides rounded (halves to even) and at least
        1 px. No side is longer than its bound, the source's side, or WebP's limit of 16 383 px.
        """
        if self.fit == "inside":
            return Crop(source, fit_inside(source, self.width, self.height))
        assert self.width is not None
        assert self.height is not None
        wanted = fit_inside(Dimensions(self.width, self.height))
        area = largest_crop(source, aspect=wanted)
        is_large_enough = area.width >= wanted.width and area.height >= wanted.height
        return Crop(area, wanted if is_large_enough else fit_inside(area))

    def exceeds(self, source: Dimensions) -> bool:
        """Return whether an image of size *source* is too small to reach the bounds."""
        is_wider = self.width is not None and self.width > source.width
        is_higher = self.height is not None and self.height > source.height
        if self.fit == "cover":
            return is_wider or is_higher
        return (is_wider or self.width is None) and (is_higher or self.height is None)

    def effort_for(self, width: int) -> int:
        """Return the WebP effort for an output of that width in pixels."""
        if self.effort is not None:
            return self.effort
        return 2 if width > _WIDE else 4

    def _check_number(self, field: str, least: int, most: int | None) -> None:
        value = getattr(self, field)
        if value is None and field != "quality":
            return
        is_whole = type(value) is int  # bool is an int, too
        if not is_whole or value < least or (most is not None and value > most):
            accepted = f"from {least} to {most}" if most else f"of pixels, {least} or more"
            raise InvalidVariantError(
                f"Size {self.name!r}: {field} is {value!r:.80}. Use a whole number {accepted}."
            )


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
