"""The steps in "How to add a format" in CONTRIBUTING.md are all that a new format needs.

These tests register its example, BMP, exactly as written there.
"""

from __future__ import annotations

import re
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.formats import registry
from imageprocessor.core.metadata import read_metadata
from tests.images import encode, photo

GUIDE = Path(__file__).parents[3] / "CONTRIBUTING.md"
SECTION = re.compile(r"^## How to add a format\n(.*?)^## ", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

BMP = encode(photo(40, 30), "BMP")
LIMITS = ip.Limits(mime_types=frozenset({"image/bmp"}))


def read_examples() -> list[str]:
    section = SECTION.search(GUIDE.read_text(encoding="utf-8"))
    assert section is not None
    return [re.sub("^   ", "", code, flags=re.MULTILINE) for code in EXAMPLE.findall(section[1])]


@pytest.fixture(autouse=True)
def _bmp_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, row = read_examples()
    bmp = ModuleType("imageprocessor.core.formats.bmp")
    exec(compile(reader, str(GUIDE), "exec"), vars(bmp))
    monkeypatch.setitem(sys.modules, bmp.__name__, bmp)
    added = eval(row, {**vars(registry), "bmp": bmp})
    monkeypatch.setitem(registry.FORMATS, added.name, added)


def test_a_new_format_is_validated() -> None:
    assert ip.validate(BMP, LIMITS) == ip.ImageInfo("BMP", "image/bmp", 40, 30, 1)


@pytest.mark.parametrize("work", [ip.validate, ip.strip_metadata, ip.process, ip.dominant_color])
def test_a_new_format_is_refused_if_limits_exclude_it(work: object) -> None:
    jpegs_only = ip.Limits(mime_types=frozenset({"image/jpeg"}))
    assert callable(work)
    with pytest.raises(ip.UnsupportedTypeError, match=r"image/bmp.*image/jpeg\."):
        work(BMP, limits=jpegs_only)


def test_a_new_format_is_stripped() -> None:
    assert ip.strip_metadata(BMP + b"a secret", LIMITS) == BMP


def test_the_metadata_of_a_new_format_is_read() -> None:
    assert read_metadata(BMP).kinds == ()
    assert read_metadata(BMP + b"a secret").kinds == ("trailer",)


def test_a_new_format_is_processed() -> None:
    card = ip.VariantSpec("card", width=20, quality=95)
    result = ip.process(BMP + b"a secret", [card], LIMITS)
    assert result.original_dimensions == (40, 30)
    assert result.removed == ("trailer",)
    with Image.open(BytesIO(result.variants["card"].data)) as image:
        assert (image.format, image.size) == ("WEBP", (20, 15))
    assert ip.dominant_color(BMP, LIMITS) == ip.dominant_color(encode(photo(40, 30), "PNG"))


@pytest.mark.parametrize("work", [ip.strip_metadata, ip.process])
def test_a_truncated_file_of_a_new_format_is_refused(work: object) -> None:
    assert callable(work)
    with pytest.raises(ip.TruncatedImageError):
        work(BMP[:-100], limits=LIMITS)


def test_a_new_format_is_in_all_lists_of_formats() -> None:
    assert registry.list_mime_types()[-1] == "image/bmp"
    assert "image/bmp" not in registry.list_default_mime_types()
    assert registry.list_suffixes()[-1] == ".bmp"
    accepted = ("image/jpeg", "image/png", "image/bmp")
    assert registry.join_titles("or", accepted) == "JPEG, PNG or BMP"
    assert registry.join_titles("or", accepted[:1]) == "JPEG"
