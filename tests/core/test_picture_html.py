from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

import imageprocessor as ip
from imageprocessor.core.picture_html import picture_html
from imageprocessor.errors import InvalidVariantError
from tests.images import encode, photo

HOSTILE = "\"'><script>alert(1)</script>&amp;\n"


class Reader(HTMLParser):
    """Collects the tags of a text, each with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))


def read_tags(html: str) -> list[tuple[str, Any]]:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader.tags


def read_image(html: str) -> Any:
    [(tag, attributes)] = read_tags(html)
    assert tag == "img"
    return attributes


def describe(
    sizes: Mapping[str, tuple[int, int]], original: tuple[int, int] = (1000, 750), **more: Any
) -> dict[str, Any]:
    """Return a result with variants of these sizes, and *more* in its metadata."""
    variants = {}
    for name, (width, height) in sizes.items():
        variants[name] = {"width": width, "height": height, "format": "webp"}
    dimensions = {"width": original[0], "height": original[1]}
    metadata = {"original_dimensions": dimensions, "variants": variants, **more}
    return {"urls": {name: f"/{name}.webp" for name in sizes}, "metadata": metadata}


SIZES = {"large": (1000, 750), "small": (150, 112), "medium": (600, 450)}


def test_browser_can_choose_among_the_widths() -> None:
    image = read_image(picture_html(describe(SIZES), alt="A cat", sizes="50vw"))
    assert image == {
        "src": "/large.webp",
        "srcset": "/small.webp 150w, /medium.webp 600w, /large.webp 1000w",
        "sizes": "50vw",
        "width": "1000",
        "height": "750",
        "alt": "A cat",
        "loading": "lazy",
        "decoding": "async",
    }


def test_result_of_process_is_shown_with_its_placeholder() -> None:
    processed = ip.process(encode(photo(160, 120), "PNG"))
    urls = {name: f"https://cdn.test/{name}.webp" for name in processed.variants}
    html = ip.picture_html({"urls": urls, "metadata": processed.describe()}, alt="")
    image = read_image(html)
    assert (image["width"], image["height"], image["alt"]) == ("160", "120", "")
    assert image["srcset"] in {
        f"{urls['thumbnail']} 150w, {urls[name]} 160w" for name in ("medium", "large", "original")
    }
    data_url = processed.placeholder.data_url
    assert image["style"] == f"background: url({data_url}) center / cover no-repeat"


TINY = {"data_url": "data:image/webp;base64,UklGRg=="}


@pytest.mark.parametrize(
    ("metadata", "is_shown"),
    [
        ({"placeholder": TINY, "has_alpha": False}, True),
        ({"placeholder": TINY, "has_alpha": True}, False),
        ({"placeholder": None, "has_alpha": None}, False),
        ({}, False),
    ],
)
def test_placeholder_is_shown_if_there_is_one_and_it_does_not_shine_through(
    metadata: dict[str, Any], is_shown: bool
) -> None:
    image = read_image(picture_html(describe(SIZES, **metadata), alt=""))
    assert ("style" in image) == is_shown


def test_variants_with_another_aspect_ratio_are_left_out() -> None:
    sizes = {"square": (700, 700), "wide": (2000, 500), **SIZES}
    assert read_image(picture_html(describe(sizes), alt=""))["srcset"].count(",") == 2


def test_variants_that_the_result_names_are_used() -> None:
    """They leave out a gray variant with the same aspect ratio."""
    sizes = {"gray": (900, 675), **SIZES}
    result = describe(sizes, responsive=["small", "medium", "large"])
    assert "gray" not in picture_html(result, alt="")


def test_without_a_variant_of_the_whole_image_the_widest_is_shown() -> None:
    sizes = {"square": (64, 64), "wide": (200, 50), "narrow": (50, 200)}
    image = read_image(picture_html(describe(sizes), alt=""))
    assert (image["src"], image["srcset"]) == ("/wide.webp", "/wide.webp 200w")


@pytest.mark.parametrize("original", [(3024, 4032), (4032, 3024), (997, 3), (16384, 5)])
def test_rounding_of_the_sides_is_no_other_aspect_ratio(original: tuple[int, int]) -> None:
    dimensions = ip.Dimensions(*original)
    sizes = {spec.name: spec.find_crop(dimensions).size for spec in ip.DEFAULT_VARIANTS}
    srcset = read_image(picture_html(describe(sizes, original), alt=""))["srcset"]
    assert len(srcset.split(", ")) == len(set(sizes.values()))


def test_each_format_is_a_source() -> None:
    srcset = {"image/avif": "/s.avif 150w, /l.avif 1000w", "image/webp": "/small.webp 150w"}
    html = picture_html({**describe(SIZES), "srcset": srcset}, alt="x", sizes="9em")
    assert html.splitlines()[0] == "<picture>"
    assert html.splitlines()[-1] == "</picture>"
    picture, *sources, image = read_tags(html)
    assert picture == ("picture", {})
    assert sources == [
        ("source", {"type": mime_type, "srcset": urls, "sizes": "9em"})
        for mime_type, urls in srcset.items()
    ]
    assert image[0] == "img"
    assert image[1]["srcset"].startswith("/small.webp 150w, ")


def test_one_format_needs_no_source() -> None:
    result = describe(SIZES) | {"srcset": {"image/webp": "/small.webp 150w"}}
    assert picture_html(result, alt="") == picture_html(describe(SIZES), alt="")


def test_nothing_leaves_its_attribute() -> None:
    result = describe({HOSTILE: (150, 112), "large": (1000, 750)})
    result["urls"][HOSTILE] = f", javascript:{HOSTILE} 9w ,"
    result["urls"]["large"] = HOSTILE
    result["metadata"]["placeholder"] = {"data_url": f"data:image/webp;base64,UklG){HOSTILE}"}
    result["srcset"] = {f"image/avif{HOSTILE}": HOSTILE}
    html = picture_html(result, alt=HOSTILE, sizes=HOSTILE)
    picture, source, (tag, image) = read_tags(html)
    assert (picture, source[0], tag) == (("picture", {}), "source", "img")
    assert source[1] == {"type": f"image/avif{HOSTILE}", "srcset": HOSTILE, "sizes": HOSTILE}
    assert (image["alt"], image["sizes"]) == (HOSTILE, HOSTILE)
    assert set(image) == {
        "src", "srcset", "sizes", "width", "height", "alt", "loading", "decoding"
    }  # fmt: skip
    assert image["srcset"].startswith("%2C%20javascript:")
    assert [part.split()[1] for part in image["srcset"].split(", ")] == ["150w", "1000w"]
    assert "<script" not in html


def test_sizes_that_are_no_numbers_are_refused() -> None:
    result = describe({"a": (150, 112)})
    result["metadata"]["variants"]["a"]["height"] = HOSTILE
    with pytest.raises((TypeError, ValueError)):
        picture_html(result, alt="")


def test_result_without_a_url_is_refused() -> None:
    result = describe(SIZES) | {"urls": {"other": "/a.webp"}}
    with pytest.raises(InvalidVariantError, match="No variant has a URL"):
        picture_html(result, alt="")
