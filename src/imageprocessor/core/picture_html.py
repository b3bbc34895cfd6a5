"""HTML that shows a processed image, in the size and the format that suit the browser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from imageprocessor.errors import InvalidVariantError

_ENDS_SRCSET_URL = re.compile(r"\s|^,+|,+$")
_DATA_URL = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/]+={0,2}")


def picture_html(result: Mapping[str, Any], *, alt: str, sizes: str = "100vw") -> str:
    """Return an ``<img>`` of which a browser chooses the width, or a ``<picture>`` of more formats.

    The placeholder is the background until the image is loaded, unless the image is translucent.

    Args:
        result: the JSON of a result, as ``/result`` returns it. For files that you serve yourself:
            ``{"urls": {"medium": "/m.webp"}, "metadata": processed.describe()}``.
        alt: what the image shows, for those who cannot see it; "" for a mere decoration.
        sizes: how wide the page shows the image, as in HTML.

    Raises:
        InvalidVariantError: No variant has a URL.
    """
    metadata = result["metadata"]
    variants = _choose_variants(metadata, result["urls"])
    widest = variants[-1]
    own_type = f"image/{widest['format']}"
    candidates = [f"{_quote(each['url'])} {int(each['width'])}w" for each in variants]
    own_srcset = ", ".join(candidates)
    image = _make_tag(
        "img",
        src=_quote(widest["url"]),
        srcset=own_srcset,
        sizes=sizes,
        width=int(widest["width"]),
        height=int(widest["height"]),
        alt=alt,
        loading="lazy",
        decoding="async",
        style=_make_style(metadata),
    )
    by_type = dict(result.get("srcset") or {})
    if by_type.keys() <= {own_type}:
        return image
    lines = ["<picture>"]
    for mime_type, srcset in by_type.items():
        source = _make_tag("source", type=mime_type, srcset=srcset, sizes=sizes)
        lines.append(f"  {source}")
    lines += [f"  {image}", "</picture>"]
    return "\n".join(lines)


def _choose_variants(
    metadata: Mapping[str, Any], urls: Mapping[str, str]
) -> Sequence[Mapping[str, Any]]:
    """Return the variants of one format that show the whole image, with their URLs, by width.

    If none shows the whole image, return only the widest variant.
    """
    described: Mapping[str, Mapping[str, Any]] = metadata["variants"]
    variants = {name: {**described[name], "url": urls[name]} for name in described if name in urls}
    if not variants:
        raise InvalidVariantError("No variant has a URL. Give a URL for each name in 'variants'.")
    whole = metadata.get("responsive")
    if whole is None:
        original = metadata["original_dimensions"]
        whole = [name for name, each in variants.items() if _has_shape(each, original)]
    candidates = [variants[name] for name in whole if name in variants]
    if not candidates:
        return [max(variants.values(), key=_width)]
    widest = max(candidates, key=_width)
    by_width = {each["width"]: each for each in candidates if each["format"] == widest["format"]}
    return sorted(by_width.values(), key=_width)


def _width(variant: Mapping[str, Any]) -> int:
    return int(variant["width"])


def _has_shape(variant: Mapping[str, Any], original: Mapping[str, Any]) -> bool:
    """Return whether a variant has the aspect ratio of the original, to one pixel."""
    width, height = original["width"], original["height"]
    difference = abs(variant["width"] * height - variant["height"] * width)
    return bool(difference <= max(width, height))


def _make_style(metadata: Mapping[str, Any]) -> str | None:
    """Return the CSS of the placeholder, or None if there is none, or if it would shine through."""
    placeholder = metadata.get("placeholder") or {}
    data_url = str(placeholder.get("data_url"))
    if metadata.get("has_alpha") or not _DATA_URL.fullmatch(data_url):
        return None
    return f"background: url({data_url}) center / cover no-repeat"


def _quote(url: str) -> str:
    """Return the URL without the characters that would end it in a ``srcset``."""
    return _ENDS_SRCSET_URL.sub(lambda found: quote(found[0]), url)


def _make_tag(name: str, **attributes: str | int | None) -> str:
    """Return an HTML tag with the attributes that are not None."""
    parts = [name]
    for attribute, value in attributes.items():
        if value is not None:
            parts.append(f'{attribute}="{escape(str(value))}"')
    return f"<{' '.join(parts)}>"
