from __future__ import annotations

from imageprocessor.core.formats.registry import list_mime_types


def test_mime_types_are_the_registered_ones() -> None:
    assert list_mime_types() == ("image/jpeg", "image/png", "image/webp")
