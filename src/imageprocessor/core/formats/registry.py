"""Every image format: one row each. Everything else that depends on a format asks this table.

"How to add a format" in CONTRIBUTING.md shows all that a new one needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imageprocessor.core.formats import jpeg, png, webp
from imageprocessor.core.formats.container import Container

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A format that is accepted, and how to read and write it.

    Args:
        name: Pillow's name of it, which ``ImageInfo.format`` reports.
        title: its name in texts.
        mime_types: the registered MIME type first, then others that ``filetype`` reports for it.
        suffixes: what names of such files end with, the usual one first.
        container: the module that reads and strips such files.
        decoder: Pillow's decoder class as "module:class", which ``core.decode`` imports: validating
            loads no decoder.
        keeps_buffers: whether the decoder holds more memory than the pixels while its image lives.
        encode: returns the file of an RGB or RGBA image, given a quality of 1 to 100 and an effort
            of 0 to 6; None where the format is only read.
    """

    name: str
    title: str
    mime_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    container: Container
    decoder: str
    keeps_buffers: bool = False
    encode: Callable[[Image.Image, int, int], bytes] | None = None

    @property
    def mime_type(self) -> str:
        """The registered MIME type."""
        return self.mime_types[0]

    @property
    def suffix(self) -> str:
        """The usual suffix, with its dot."""
        return self.suffixes[0]


FORMATS = {
    row.name: row
    for row in (
        ImageFormat(
            name="JPEG",
            title="JPEG",
            mime_types=("image/jpeg",),
            suffixes=(".jpg", ".jpeg"),
            container=jpeg,
            decoder="PIL.JpegImagePlugin:JpegImageFile",
        ),
        ImageFormat(
            name="PNG",
            title="PNG",
            mime_types=("image/png", "image/apng"),
            suffixes=(".png",),
            container=png,
            decoder="PIL.PngImagePlugin:PngImageFile",
        ),
        ImageFormat(
            name="WEBP",
            title="WebP",
            mime_types=("image/webp",),
            suffixes=(".webp",),
            container=webp,
            decoder="PIL.WebPImagePlugin:WebPImageFile",
            keeps_buffers=True,  # two canvases
            encode=webp.encode,
        ),
    )
}

OUTPUT_FORMAT = FORMATS["WEBP"]
"""The format of all variants."""


def list_mime_types() -> tuple[str, ...]:
    """Return the MIME type of each format, in the order of the table."""
    return tuple(row.mime_type for row in FORMATS.values())


def list_suffixes() -> tuple[str, ...]:
    """Return all suffixes of all formats, in the order of the table."""
    return tuple(suffix for row in FORMATS.values() for suffix in row.suffixes)


def join_titles(conjunction: str) -> str:
    """Return the formats as a list in a sentence.

    >>> join_titles("or")
    'JPEG, PNG or WebP'
    """
    *others, last = (row.title for row in FORMATS.values())
    return f"{', '.join(others)} {conjunction} {last}"
