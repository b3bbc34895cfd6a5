"""Transformations as values and as text: ``w_400,h_300,fit_cover``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal, NoReturn

from imageprocessor.core.transformations import values
from imageprocessor.core.transformations.values import Kind
from imageprocessor.errors import InvalidTransformationError

MAX_TEXT = 1000
"""The longest text that is parsed; all operations together need less than half of it."""

Fit = Literal["inside", "cover", "pad", "fill"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its key in texts, its field in ``Transformation``, and its values."""

    key: str
    field: str
    kind: Kind


OPERATIONS = (
    Operation("crop", "crop", values.crop()),
    Operation("trim", "trim", values.flag()),
    Operation("rot", "rotate", values.angle()),
    Operation("flip", "flip", values.choice("h", "v", "hv")),
    Operation("w", "width", values.whole(1, unit="pixels")),
    Operation("h", "height", values.whole(1, unit="pixels")),
    Operation("ar", "aspect_ratio", values.ratio()),
    Operation("fit", "fit", values.choice("inside", "cover", "pad", "fill")),
    Operation("g", "gravity", values.gravity()),
    Operation("dpr", "dpr", values.number(1, 4)),
    Operation("up", "enlarge", values.flag()),
    Operation("bg", "background", values.color()),
    Operation("pad", "pad", values.whole(0, unit="pixels")),
    Operation("bri", "brightness", values.number(-100, 100)),
    Operation("con", "contrast", values.number(-100, 100)),
    Operation("sat", "saturation", values.number(-100, 100)),
    Operation("gray", "grayscale", values.flag()),
    Operation("sepia", "sepia", values.flag()),
    Operation("blur", "blur", values.number(0, 100)),
    Operation("sharp", "sharpen", values.number(0, 100)),
    Operation("pix", "pixelate", values.whole(0, 1000, unit="pixels")),
    Operation("wm", "watermark", values.watermark()),
    Operation("r", "radius", values.radius()),
    Operation("q", "quality", values.whole(1, 100)),
    Operation("anim", "animation", values.choice("first", "keep")),
)
"""All operations, in the order in which they apply and in which the canonical form lists them."""

_BY_KEY = {operation.key: operation for operation in OPERATIONS}


@dataclass(frozen=True, repr=False)
class Transformation:
    """What to do with an image, always in this order, whatever the order in which it is written.

    Each operation has a key in texts, which is given here in brackets. One that changes nothing is
    dropped: ``Transformation(blur=0) == Transformation()``.

    Args:
        crop: [crop] the part to keep of the upright image: "x:y:w:h" in pixels, or in percent as
            "10p:0p:50p:50p".
        trim: [trim] remove a border of one colour, that of the top left pixel.
        rotate: [rot] 90, 180 or 270 degrees, clockwise.
        flip: [flip] mirror left and right ("h"), top and bottom ("v") or both ("hv").
        width: [w] upper bound of the width in pixels.
        height: [h] upper bound of the height in pixels.
        aspect_ratio: [ar] "w:h", instead of a width or a height.
        fit: [fit] "inside" keeps the whole image within the bounds; "cover" fills them and cuts off
            the rest; "pad" keeps the whole image and extends it to the bounds; "fill" distorts it.
        gravity: [g] which part "cover" keeps, or where "pad" places the image: "center", "n", "ne"
            and so on; for "cover" also "auto", the part with the subject, or a point "x:y" of the
            upright, uncropped image, in pixels or in percent as "30p:50p".
        dpr: [dpr] 1 to 4 pixels per pixel of the screen: a factor for width, height, pad, blur,
            pixelate and radius. If the image is too small, the factor that is reached.
        enlarge: [up] enlarge a small image to the bounds.
        background: [bg] "rrggbb" or "rrggbbaa", the colour behind all that is transparent and of
            what "pad" adds; without it, that is transparent.
        pad: [pad] pixels to add on all sides.
        brightness: [bri] -100 (black) to 100 (doubled).
        contrast: [con] -100 (gray) to 100 (doubled).
        saturation: [sat] -100 (grayscale) to 100 (doubled).
        grayscale: [gray] remove the colours.
        sepia: [sepia] colour it like an old photograph.
        blur: [blur] sigma in pixels, 0 to 100.
        sharpen: [sharp] strength in percent, 0 to 100.
        pixelate: [pix] side of the blocks in pixels.
        watermark: [wm] "name:gravity:opacity:scale": an image to draw on top, within *scale*
            percent of width and height.
        radius: [r] radius of the round corners in pixels, or "max".
        quality: [q] 1 to 100.
        animation: [anim] "first" keeps only the first frame of an animation, "keep" all of them.

    Raises:
        InvalidTransformationError: A value is out of range, or two contradict each other.

    >>> Transformation(width=400, height=300, fit="cover", blur=2.0)
    Transformation(width=400, height=300, fit='cover', blur=2)
    >>> str(Transformation.parse("blur_2,fit_cover,h_300,w_400"))
    'w_400,h_300,fit_cover,blur_2'
    """

    width: int | None = None
    height: int | None = None
    fit: Fit = "inside"
    _: KW_ONLY
    crop: str | None = None
    trim: bool = False
    rotate: int = 0
    flip: Literal["h", "v", "hv"] | None = None
    aspect_ratio: str | None = None
    gravity: str = "center"
    dpr: float = 1
    enlarge: bool = False
    background: str | None = None
    pad: int = 0
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    grayscale: bool = False
    sepia: bool = False
    blur: float = 0
    sharpen: float = 0
    pixelate: int = 0
    watermark: str | None = None
    radius: int | Literal["max"] = 0
    quality: int | None = None
    animation: Literal["first", "keep"] = "first"

    @classmethod
    def parse(cls, text: str) -> Transformation:
        """Return the transformation that *text* describes, its operations in any order.

        Raises:
            InvalidTransformationError: An operation is unknown, repeated, or has a wrong value.
        """
        if len(text) > MAX_TEXT:
            raise InvalidTransformationError(
                f"The operations have {len(text)} characters. Use at most {MAX_TEXT}."
            )
        if not text:
            return Transformation()
        options: dict[str, Any] = {}
        for part in text.split(","):
            key, _, value = part.partition("_")
            operation = _BY_KEY.get(key)
            if operation is None:
                raise InvalidTransformationError(
                    f"Unknown operation {part!r:.80}. Use one of {', '.join(_BY_KEY)}, "
                    "each with a value, as in w_400,h_300."
                )
            if operation.field in options:
                raise InvalidTransformationError(f"{key} occurs twice. Use it once.")
            options[operation.field] = _read(operation, value)
        return Transformation(**options)

    def __post_init__(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for operation in OPERATIONS:
            value = getattr(self, operation.field)
            if value == defaults[operation.field] and type(value) is not bool:
                continue
            try:
                normalized = operation.kind.check(value)
            except ValueError:
                self._fail(f"{operation.field} is {value!r:.80}. Use {operation.kind.form}.")
            self._set(operation.field, normalized)
        self._check_bounds()
        self._drop_unused()

    def __str__(self) -> str:
        """Return the canonical form: equal transformations have the same."""
        changes = self.list_changes()
        used = [operation for operation in OPERATIONS if operation.field in changes]
        return ",".join(f"{each.key}_{values.write(changes[each.field])}" for each in used)

    def __repr__(self) -> str:
        changes = self.list_changes()
        options = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        return f"{type(self).__name__}({options})"

    @property
    def watermark_name(self) -> str | None:
        """The name of the watermark's image."""
        return None if self.watermark is None else self.watermark.partition(":")[0]

    def list_changes(self) -> dict[str, Any]:
        """Return the fields that differ from their default."""
        changes = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                changes[field.name] = value
        return changes

    def _check_bounds(self) -> None:
        """Raise an error if the bounds do not suit the fit."""
        bounds = (self.width, self.height).count(None)
        if self.aspect_ratio is not None and bounds == 0:
            self._fail("aspect_ratio contradicts width and height. Use at most two of the three.")
        if self.aspect_ratio is not None and bounds == 2 and self.fit in ("inside", "fill"):
            self._fail(
                f"fit {self.fit!r} with an aspect_ratio needs a width or a height. "
                "Add one, or use 'cover' or 'pad'."
            )
        if self.aspect_ratio is None and bounds > 0 and self.fit != "inside":
            self._fail(
                f"fit {self.fit!r} needs both a width and a height, or an aspect_ratio instead of "
                "one of them."
            )

    def _drop_unused(self) -> None:
        """Reset what changes nothing because of the other fields."""
        can_place = self.fit == "cover" or (self.fit == "pad" and self.gravity in values.COMPASS)
        if not can_place:
            self._set("gravity", "center")
        if self.width is None and self.height is None:
            self._set("dpr", 1)
            self._set("enlarge", False)
        if self.pixelate == 1:
            self._set("pixelate", 0)

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def _fail(self, fault: str) -> NoReturn:
        raise InvalidTransformationError(fault)


def _read(operation: Operation, text: str) -> object:
    """Return the value of *operation* that *text* describes."""
    kind = operation.kind
    try:
        return kind.check(kind.read(text))
    except ValueError:
        raise InvalidTransformationError(
            f"{operation.key} is {text!r:.80}. Use {kind.text_form or kind.form}."
        ) from None
