"""The variants to make of an image: their specification and their result."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NoReturn

from imageprocessor.core.formats.registry import DEFAULT_OUTPUT, FORMATS, OUTPUT_FORMATS
from imageprocessor.core.geometry import Crop, Dimensions, fit_pixels
from imageprocessor.core.transformations.geometry import (
    find_bounds,
    find_cropped,
    find_needed,
    plan_resize,
)
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.errors import InvalidVariantError

DEFAULT_QUALITY = FORMATS["WEBP"].quality or 85
DEFAULT_SIZES = {"thumbnail": 150, "medium": 600, "large": 1200, "original": 4096}
"""Upper bounds of the width in pixels, by name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CODING = {"quality", "lossless", "max_bytes", "webp_quality", "effort"}
_ENCODING = {"format", "formats", "animation", *_CODING}
_PLAIN = {"name", "width", "height", "fit", *_ENCODING}
_SCALING = {*_PLAIN, "aspect_ratio", "gravity", "dpr", "enlarge"}
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
        format: ``"webp"``, ``"avif"``, ``"jpeg"`` or ``"png"``. An AVIF has at most 4.2 megapixels;
            a larger variant is scaled down. A JPEG is white where the image is transparent.
        formats: several formats: the first is the variant's, the others those of its alternates.
            An animation that is kept is a WebP without alternates.
        quality: the highest quality to use in all formats, 1 to 100, or "auto"; see
            ``Transformation``. None means 85 for WebP and JPEG, and 60 for AVIF. PNG is always
            lossless.
        webp_quality: what ``quality=None`` means for WebP.
        effort: 0 (fast) to 6 (small files); JPEG has no choice. None means 2 for an output wider
            than 2048 px and 4 otherwise: for a wide WebP, 2 takes 0.4 times as long as 4 and 6 %
            more bytes at equal SSIM (docs/benchmarks.md).

    ``Transformation`` describes the other options. Without a width and a height, the image keeps
    its size.

    Raises:
        InvalidVariantError: A value is out of range.

    >>> VariantSpec("card", width=400, quality=80).find_crop(Dimensions(3024, 4032)).size
    Dimensions(width=400, height=533)
    >>> VariantSpec("card", width=400, formats=("avif", "webp")).files
    {'card': 'avif', 'card.webp': 'webp'}
    >>> VariantSpec("Card", width=400)
    Traceback (most recent call last):
    imageprocessor.errors.InvalidVariantError: Size name 'Card' is not valid. Use 1 to 32 of ...
    """

    _: KW_ONLY
    format: str = DEFAULT_OUTPUT
    formats: tuple[str, ...] = ()
    webp_quality: int = DEFAULT_QUALITY
    effort: int | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise InvalidVariantError(
                f"Size name {self.name!r:.80} is not valid. Use 1 to 32 of a-z, 0-9, '_' and '-', "
                "starting with a letter or a digit."
            )
        super().__post_init__()
        self._check_formats()
        self._check_range("webp_quality", self.webp_quality, 1, 100)
        if self.effort is not None:
            self._check_range("effort", self.effort, 0, 6)

    @property
    def is_plain(self) -> bool:
        """Return whether this only bounds the size, as ``resize_to_each`` can do for many sizes."""
        is_simple_fit = self.fit in ("inside", "cover")
        return is_simple_fit and self.list_changes().keys() <= _PLAIN

    @property
    def look(self) -> Transformation:
        """The operations that change more than the size and the file.

        Variants with equal looks show the same if they also have the same aspect ratio.
        """
        changes = self.list_changes()
        operations = {name: changes[name] for name in changes.keys() - _SCALING}
        return Transformation(**operations)

    @property
    def files(self) -> dict[str, str]:
        """The format of each file by its name: that of the size, or of an alternate."""
        first, *others = self.formats or (self.format,)
        return {self.name: first} | {name_alternate(self.name, other): other for other in others}

    def list_changes(self) -> dict[str, Any]:
        """Return the fields that differ from their default."""
        changes = super().list_changes()
        if self.formats:
            changes.pop("format", None)  # the first of them
        return changes

    def find_crop(self, source: Dimensions) -> Crop:
        """Return the area to keep of an image of size *source*, and the size of the result.

        The result keeps the area's aspect ratio, with sides rounded (halves to even) and at least
        1 px. No side is longer than its bound, the source's side, or WebP's limit of 16 383 px, and
        an AVIF has no more pixels than its encoder takes.

        With other operations than bounds, return what they need of the image.
        """
        if not self.is_plain:
            return find_needed(self, source)
        plan = plan_resize(self, source)
        return Crop(plan.area, self.bound_pixels(plan.size))

    def bound_pixels(self, size: Dimensions) -> Dimensions:
        """Return *size*, scaled down if the encoder of one of the formats takes fewer pixels."""
        for name in self.files.values():
            max_pixels = OUTPUT_FORMATS[name].max_pixels
            if max_pixels is not None:
                size = fit_pixels(size, max_pixels)
        return size

    def is_scaled_down(self, source: Dimensions) -> bool:
        """Return whether a plain variant has fewer pixels because of its encoder."""
        size = plan_resize(self, source).size
        return self.bound_pixels(size) != size

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
        """Return the effort for an output of that width in pixels."""
        if self.effort is not None:
            return self.effort
        return 2 if width > _WIDE else 4

    def quality_for(self, output: str) -> int | Literal["auto"]:
        """Return the quality for an output of that format; 100 if it loses nothing."""
        if self.quality is not None:
            return self.quality
        if output == "webp":
            return self.webp_quality
        return OUTPUT_FORMATS[output].quality or 100

    def _check_formats(self) -> None:
        """Check the formats; let ``format`` be the first of them, and drop a list of one."""
        named: object = self.formats
        if not isinstance(named, tuple | list) or len(set(map(str, named))) < len(named):
            self._fail(f"formats is {named!r:.80}. Use a list of different formats.")
        formats = tuple(named) or (self.format,)
        known = ", ".join(map(repr, OUTPUT_FORMATS))
        for name in formats:
            if type(name) is not str or name not in OUTPUT_FORMATS:
                self._fail(f"format {name!r:.80} is unknown. Use one of {known}.")
        if self.format not in (DEFAULT_OUTPUT, formats[0]):
            self._fail("format contradicts formats. Use one of the two.")
        if self.lossless is True and not {"webp", "png"} & set(formats):
            self._fail("lossless needs the format 'webp' or 'png'. Add one, or leave it out.")
        if self.animation == "keep" and "webp" not in formats:
            self._fail("animation 'keep' needs the format 'webp'. Add it to the formats.")
        self._set("format", formats[0])
        self._set("formats", formats if len(formats) > 1 else ())

    def _check_range(self, field: str, value: object, least: int, most: int) -> None:
        if type(value) is not int or not least <= value <= most:
            self._fail(f"{field} is {value!r:.80}. Use a whole number from {least} to {most}.")

    def _fail(self, fault: str) -> NoReturn:
        raise InvalidVariantError(f"Size {self.name!r}: {fault}")


@dataclass(frozen=True, slots=True)
class Variant:
    """One finished size of an image: an encoded file and its dimensions in pixels.

    ``alternates`` are the same image in the other formats of its size. An animation has more than
    one of ``frames``, and ``duration_seconds`` is how long it plays once. The repr leaves out the
    file, which may have megabytes.

    >>> Variant(b"RIFF...", width=150, height=200).aspect_ratio
    0.75
    """

    data: bytes = field(repr=False)
    width: int
    height: int
    format: str = DEFAULT_OUTPUT
    frames: int = 1
    duration_seconds: float | None = None
    alternates: tuple[Variant, ...] = field(default=(), repr=False)

    @property
    def aspect_ratio(self) -> float:
        """Width divided by height, to four decimals."""
        return round(self.width / self.height, 4)

    @property
    def size_bytes(self) -> int:
        """The length of the encoded file."""
        return len(self.data)

    def describe(self) -> dict[str, Any]:
        """Return everything except the bytes, ready for JSON; alternates only if there are any."""
        described: dict[str, Any] = {
            "width": self.width,
            "height": self.height,
            "aspect_ratio": self.aspect_ratio,
            "format": self.format,
            "size_bytes": self.size_bytes,
        }
        if self.alternates:
            described["alternates"] = [alternate.describe() for alternate in self.alternates]
        if self.duration_seconds is not None:
            described |= {"frames": self.frames, "duration_seconds": self.duration_seconds}
        return described


def name_alternate(size: str, output: str) -> str:
    """Return the name of the file that is an alternate: no size has a dot in its name.

    >>> name_alternate("card", "webp")
    'card.webp'
    """
    return f"{size}.{output}"


DEFAULT_VARIANTS = tuple(VariantSpec(name, width=width) for name, width in DEFAULT_SIZES.items())
"""The sizes that are made if no others are requested."""
