"""The sizes to make of a picture: what is asked, the geometry that follows, and what comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from imageprocessor.errors import InvalidVariantError

MAX_OUTPUT_SIDE = 16_383
"""The longest side that WebP can store, in pixels (14 bits, RFC 9649)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_FITS = ("inside", "cover")
_WIDE = 2048


class Dimensions(NamedTuple):
    """A width and a height in pixels."""

    width: int
    height: int

    def turned(self) -> Dimensions:
        """Return those of the picture laid on its side."""
        return Dimensions(self.height, self.width)


class Cut(NamedTuple):
    """What to take of a picture, always from its middle, and how large that shall become.

    In pixels.
    """

    crop: Dimensions
    size: Dimensions

    @property
    def scale(self) -> float:
        """Pixels that come out for each that goes in."""
        return self.size.width * self.size.height / (self.crop.width * self.crop.height)

    @property
    def share(self) -> float:
        """Length that comes out for each that goes in, of the side that loses less."""
        return max(self.size.width / self.crop.width, self.size.height / self.crop.height)


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """One size to make of a picture.

    Args:
        name: what the size is called; it becomes part of paths. Lower-case letters, digits, ``-``
            and ``_``.
        width: upper bound of the width in pixels.
        height: upper bound of the height in pixels.
        fit: ``"inside"`` keeps the whole picture within the bounds; ``"cover"`` fills width ×
            height exactly and
            crops what is over, evenly on both sides. Neither enlarges.
        quality: WebP quality, 1 to 100.
        effort: WebP effort, 0 (fast) to 6 (small); None takes 2 for an output wider than 2048 px,
            else 4: a large one
            takes 0.4 times as long that way, for 6 % more bytes at equal SSIM (docs/benchmarks.md).

    Raises:
        InvalidVariantError: a value is out of range.

    >>> VariantSpec("card", width=400, quality=80).cut(Dimensions(3024, 4032)).size
    Dimensions(width=400, height=533)
    >>> VariantSpec("Card", width=400)
    Traceback (most recent call last):
    imageprocessor.errors.InvalidVariantError: Size name 'Card' is not valid: use 1 to 32 of a-z, 0-9, '_' and '-', ...
    """

    name: str
    width: int | None = None
    height: int | None = None
    fit: Literal["inside", "cover"] = "inside"
    quality: int = 85
    effort: int | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise InvalidVariantError(
                f"Size name {self.name!r:.80} is not valid: use 1 to 32 of a-z, 0-9, '_' and '-', "
                "beginning with a letter or a digit."
            )
        self._check_number("width", 1, None)
        self._check_number("height", 1, None)
        self._check_number("effort", 0, 6)
        self._check_number("quality", 1, 100)
        self._check_fit()

    def cut(self, source: Dimensions) -> Cut:
        """Tell what to take of a picture of that size, and the size of the result.

        The aspect ratio of what is taken is kept to the pixel: rounded (halves to even), at least
        1. No side of the result is longer than its bound, the source's, or WebP's 16 383 px.
        """
        if self.fit == "inside":
            return Cut(source, fit_inside(source, self.width, self.height))
        assert self.width is not None
        assert self.height is not None
        bounds = fit_inside(Dimensions(self.width, self.height))
        crop = _largest_crop(source, bounds)
        return Cut(
            crop,
            bounds
            if crop.width >= bounds.width and crop.height >= bounds.height
            else fit_inside(crop),
        )

    def asks_more_than(self, source: Dimensions) -> bool:
        """Tell whether a picture of that size would have to be enlarged to reach the bounds."""
        short = [
            bound > side
            for bound, side in zip((self.width, self.height), source, strict=True)
            if bound
        ]
        return any(short) if self.fit == "cover" else all(short)

    def effort_for(self, width: int) -> int:
        """Return the WebP effort for an output of that width in pixels."""
        if self.effort is not None:
            return self.effort
        return 2 if width > _WIDE else 4

    def _check_number(self, field: str, least: int, most: int | None) -> None:
        value = getattr(self, field)
        if value is None and field != "quality":
            return
        if type(value) is not int or value < least or (most is not None and value > most):
            accepted = f"of {least} to {most}" if most else f"of pixels, {least} or more"
            raise InvalidVariantError(
                f"Size {self.name!r}: {field} is {value!r:.80}; it must be a whole number {accepted}."
            )

    def _check_fit(self) -> None:
        if self.fit not in _FITS:
            raise InvalidVariantError(
                f"Size {self.name!r}: fit is {self.fit!r:.80}; use 'inside' or 'cover'."
            )
        if self.fit == "cover" and None in (self.width, self.height):
            raise InvalidVariantError(
                f"Size {self.name!r}: fit 'cover' needs both a width and a height."
            )
        if self.width is None and self.height is None:
            raise InvalidVariantError(
                f"Size {self.name!r} has no bound: give a width, a height or both."
            )


@dataclass(frozen=True, slots=True)
class Variant:
    """One finished size of a picture: an encoded file and its dimensions in pixels.

    >>> Variant(b"RIFF...", width=150, height=200).aspect_ratio
    0.75
    """

    data: bytes
    width: int
    height: int
    format: str = "webp"

    @property
    def aspect_ratio(self) -> float:
        """Width divided by height, to four decimals."""
        return round(self.width / self.height, 4)

    @property
    def size_bytes(self) -> int:
        """The length of the encoded file."""
        return len(self.data)

    def describe(self) -> dict[str, int | float | str]:
        """Return everything but the bytes, ready for JSON."""
        return {
            name: getattr(self, name)
            for name in ("width", "height", "aspect_ratio", "format", "size_bytes")
        }


DEFAULT_VARIANTS = (
    VariantSpec("thumbnail", width=150),
    VariantSpec("medium", width=600),
    VariantSpec("large", width=1200),
    VariantSpec("original", width=4096),
)
"""What is made unless something else is asked."""


def fit_inside(
    source: Dimensions, width: int | None = None, height: int | None = None
) -> Dimensions:
    """Return the largest size of the source's aspect ratio within the bounds and WebP's.

    Never above the source's.

    >>> fit_inside(Dimensions(3024, 4032), width=150)
    Dimensions(width=150, height=200)
    """
    bound_width = min(width or source.width, source.width, MAX_OUTPUT_SIDE)
    bound_height = min(height or source.height, source.height, MAX_OUTPUT_SIDE)
    if bound_width * source.height <= bound_height * source.width:
        return Dimensions(bound_width, max(1, round(source.height * bound_width / source.width)))
    return Dimensions(max(1, round(source.width * bound_height / source.height)), bound_height)


def _largest_crop(source: Dimensions, aspect: Dimensions) -> Dimensions:
    if source.width * aspect.height <= source.height * aspect.width:
        return Dimensions(source.width, max(1, round(source.width * aspect.height / aspect.width)))
    return Dimensions(max(1, round(source.height * aspect.width / aspect.height)), source.height)
