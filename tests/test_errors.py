from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageprocessor.errors import ImageProcessorError

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
PATTERN = re.compile(r"[a-z]+(_[a-z]+)+")
FAULT_FIRST = re.compile(
    r"(bad|corrupt|empty|exceeded|failed|invalid|lost|missing|no|not|out|too|unavailable|unknown"
    r"|unsupported|wrong)_"
)
ABBREVIATED = re.compile(r"(^|_)(db|err|img|msg|req)(_|$)")


def list_classes(root: type[ImageProcessorError]) -> Iterator[type[ImageProcessorError]]:
    yield root
    for child in root.__subclasses__():
        yield from list_classes(child)


CLASSES = list(list_classes(ImageProcessorError))


def names_thing_and_fault(code: str) -> bool:
    wrong_order, abbreviated = FAULT_FIRST.match(code), ABBREVIATED.search(code)
    return bool(PATTERN.fullmatch(code)) and not wrong_order and not abbreviated


@pytest.mark.parametrize("error_class", CLASSES[1:])
def test_code_names_the_thing_and_then_the_fault(error_class: type[ImageProcessorError]) -> None:
    assert names_thing_and_fault(error_class.code)


@pytest.mark.parametrize(
    "code", ["invalid_form", "unknown_size", "too_many_files", "db_unavailable", "Form_invalid", ""]
)
def test_codes_that_break_the_pattern_are_found(code: str) -> None:
    assert not names_thing_and_fault(code)


def test_every_class_has_its_own_code() -> None:
    assert [found for found in CLASSES if "code" not in vars(found)] == []
    uses = Counter(found.code for found in CLASSES)
    assert [code for code, count in uses.items() if count > 1] == []


def test_errors_page_lists_every_code_once() -> None:
    rows = re.findall(r"^\| `(\w+)`<br>(\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(found.code, found.__name__) for found in CLASSES]
