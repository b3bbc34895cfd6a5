"""The kinds of values that operations have: how each is written, checked and normalized."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

MAX_WHOLE = 999_999
"""The largest whole number of pixels."""

MAX_BYTES = 999_999_999
"""The largest bound on the size of a file."""

COMPASS = ("center", "n", "ne", "e", "se", "s", "sw", "w", "nw")

WATERMARK_NAME = re.compile("[a-z0-9-]{1,64}")

_NUMBER = r"(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{0,2}[1-9])?"
_WHOLE = r"(?:0|[1-9][0-9]{0,5})"
_WRITTEN_WHOLE = re.compile("0|[1-9][0-9]{0,8}")
_WRITTEN_NUMBER = re.compile(f"-?{_NUMBER}")
_PIXELS = re.compile(f"{_WHOLE}(?::{_WHOLE})*")
_PERCENTAGES = re.compile(f"{_NUMBER}p(?::{_NUMBER}p)*")
_COLOR = re.compile("[0-9a-f]{6}(?:[0-9a-f]{2})?")
_RATIO = re.compile(f"({_NUMBER}):({_NUMBER})")
_WATERMARK = re.compile(f"({WATERMARK_NAME.pattern}):([a-z]+):({_WHOLE}):({_WHOLE})")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    Args:
        form: the accepted values, for messages: "Use {form}."
        check: returns the normalized value, or raises ``ValueError``.
        read: returns the value of a text, not yet checked, or raises ``ValueError``.
        text_form: *form* for texts, if it differs.
    """

    form: str
    check: Callable[[object], object]
    read: Callable[[str], object] = str
    text_form: str | None = None


def whole(least: int, most: int = MAX_WHOLE, *, unit: str = "") -> Kind:
    """Return the kind of whole numbers from *least* to *most*."""

    def check(value: object) -> int:
        if type(value) is not int or not least <= value <= most:  # bool is an int, too
            raise ValueError
        return value

    noun = f"a whole number of {unit}," if unit else "a whole number"
    form = f"{noun} from {least} to {most}"
    return Kind(form, check, _read_whole)


def whole_or(word: str, least: int, most: int = MAX_WHOLE, *, unit: str = "") -> Kind:
    """Return the kind of whole numbers, of which *word* may take the place."""
    numbers = whole(least, most, unit=unit)

    def check(value: object) -> object:
        return value if value == word else numbers.check(value)

    def read(text: str) -> object:
        return text if text == word else numbers.read(text)

    return Kind(f"{numbers.form}, or {word!r}", check, read, f"{numbers.form}, or {word}")


def number(least: int, most: int) -> Kind:
    """Return the kind of numbers from *least* to *most* with at most three decimals."""

    def check(value: object) -> int | float:
        if type(value) not in (int, float):
            raise ValueError
        assert isinstance(value, int | float)
        if not least <= value <= most or round(value, 3) != value:  # NaN is not in the range
            raise ValueError
        return int(value) if value == int(value) else value

    form = f"a number from {least} to {most} with at most three decimals, such as 1.5"
    return Kind(form, check, _read_number)


def choice(*accepted: str) -> Kind:
    """Return the kind of values that are one of the *accepted* texts."""
    return Kind(_join(map(repr, accepted)), _check_among(accepted), text_form=_join(accepted))


def angle() -> Kind:
    """Return the kind of right angles in degrees."""
    return Kind("0, 90, 180 or 270", _check_angle, _read_whole)


def flag() -> Kind:
    """Return the kind of true and false, written 1 and 0."""
    return Kind("True or False", _check_flag, _read_flag, text_form="1, or 0 for no")


def flag_or(word: str) -> Kind:
    """Return the kind of true and false, of which *word* may take the place."""

    def check(value: object) -> object:
        return value if value == word else _check_flag(value)

    def read(text: str) -> object:
        return text if text == word else _read_flag(text)

    return Kind(f"True, False or {word!r}", check, read, f"1, 0 for no, or {word}")


def crop() -> Kind:
    """Return the kind of boxes ``x:y:w:h``, in pixels or in percent."""
    form = "x:y:w:h in pixels, or in percent as 10p:0p:50p:50p, with w and h above 0"
    return Kind(form, _check_crop)


def gravity() -> Kind:
    """Return the kind of positions: a direction, ``"auto"`` or a point."""
    form = f"{_join([*COMPASS, 'auto'])}; or a point x:y in pixels, or in percent as 30p:50p"
    return Kind(form, _check_gravity)


def ratio() -> Kind:
    """Return the kind of aspect ratios, ``w:h``."""
    return Kind("w:h, such as 16:9 or 1.91:1, both above 0", _check_ratio)


def color() -> Kind:
    """Return the kind of colours: six or eight hexadecimal digits."""
    return Kind("rrggbb or rrggbbaa in lower-case hexadecimal digits", _check_color)


def watermark() -> Kind:
    """Return the kind of watermarks: ``name:gravity:opacity:scale``."""
    form = (
        "name:gravity:opacity:scale, such as logo:se:80:25: a name of a-z, 0-9 and '-', "
        f"{_join(COMPASS)}, and two percentages from 1 to 100"
    )
    return Kind(form, _check_watermark)


def write(value: object) -> str:
    """Return a checked value as text.

    >>> write(2.5), write(-3), write(True), write("16:9")
    ('2.5', '-3', '1', '16:9')
    """
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0")
    return str(value)


def split_numbers(text: str) -> tuple[list[Fraction], bool]:
    """Return the numbers of a checked crop or point, and whether they are percentages.

    >>> split_numbers("10p:2.5p")
    ([Fraction(10, 1), Fraction(5, 2)], True)
    """
    numbers = [Fraction(part.removesuffix("p")) for part in text.split(":")]
    return numbers, text.endswith("p")


def _read_whole(text: str) -> int:
    if not _WRITTEN_WHOLE.fullmatch(text):
        raise ValueError
    return int(text)


def _read_number(text: str) -> int | float:
    if not _WRITTEN_NUMBER.fullmatch(text) or text == "-0":
        raise ValueError
    return float(text) if "." in text else int(text)


def _read_flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


def _check_flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def _check_angle(value: object) -> int:
    if type(value) is not int or value not in (0, 90, 180, 270):
        raise ValueError
    return value


def _check_among(accepted: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if type(value) is not str or value not in accepted:
            raise ValueError
        return value

    return check


def _check_crop(value: object) -> str | None:
    if not _is_list_of_numbers(value, 4):
        raise ValueError
    assert isinstance(value, str)
    (left, top, width, height), is_percent = split_numbers(value)
    if width == 0 or height == 0:
        raise ValueError
    if is_percent and max(left + width, top + height) > 100:
        raise ValueError
    return None if value == "0p:0p:100p:100p" else value


def _check_gravity(value: object) -> str:
    if value in COMPASS or value == "auto":
        return str(value)
    if not _is_list_of_numbers(value, 2):
        raise ValueError
    assert isinstance(value, str)
    numbers, is_percent = split_numbers(value)
    if is_percent and max(numbers) > 100:
        raise ValueError
    return value


def _is_list_of_numbers(value: object, count: int) -> bool:
    """Return whether *value* is so many numbers of pixels or of percent, joined by ``:``."""
    if type(value) is not str or value.count(":") != count - 1:
        return False
    return bool(_PIXELS.fullmatch(value) or _PERCENTAGES.fullmatch(value))


def _check_ratio(value: object) -> str:
    written = _RATIO.fullmatch(value) if type(value) is str else None
    if written is None or "0" in written.groups():
        raise ValueError
    return written[0]


def _check_color(value: object) -> str | None:
    if type(value) is not str or not _COLOR.fullmatch(value):
        raise ValueError
    alpha = value[6:]
    if alpha == "00":
        return None
    return value[:6] if alpha == "ff" else value


def _check_watermark(value: object) -> str:
    written = _WATERMARK.fullmatch(value) if type(value) is str else None
    if written is None or written[2] not in COMPASS:
        raise ValueError
    if not (1 <= int(written[3]) <= 100 and 1 <= int(written[4]) <= 100):
        raise ValueError
    return written[0]


def _join(texts: Iterable[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} or {last}"
