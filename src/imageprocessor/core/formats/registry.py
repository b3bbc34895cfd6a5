"""The table of image formats, one row each. All code that depends on a format reads it here.

"How to add a format" in CONTRIBUTING.md shows everything that a new format needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imageprocessor.core.formats import jpeg, png, webp
from imageprocessor.core.formats.container import Coding, Container, lossy_coding
from imageprocessor.core.formats.encoding import Encoding

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An accepted format, and how to read and write it.

    Args:
        name: Pillow's name for it, which ``ImageInfo.format`` returns.
        title: its name in messages and documentation.
        mime_types: the registered MIME type first, then others that ``filetype`` returns for it.
        suffixes: its file name suffixes, the usual one first.
        container: the module that reads and strips files of this format.
        decoder: Pillow's decoder class, or a subclass of it, as "module:class". ``core.decode``
            imports it, so that validating does not load a decoder.
        keeps_buffers: whether the decoder keeps more memory than the pixels while its image exists.
        trim: returns a file without bytes between its last pixel and its end mark, or raises
            ``TruncatedImageError`` if pixels are missing; None if only a decoder could do that.
        shorten: yields each frame as a file of its own, and copies of it with less coded data, of
            which a decoder accepts none unless there is data behind the last pixel; None if the
            decoder itself notices such data, or ``trim`` removes it.
        read_coding: returns how a file codes its pixels, from its header.
        encode: returns an encoded RGB or RGBA image; None for a format that is only read.
        loss: whether ``encode`` changes pixels; if optional, ``Encoding.lossless`` decides.
        below_jpeg: how much lower than that of an equally good JPEG the quality of ``encode`` is;
            None if the two cannot be compared.
    """

    name: str
    title: str
    mime_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    container: Container
    decoder: str
    keeps_buffers: bool = False
    trim: Callable[[bytes], bytes] | None = None
    shorten: Callable[[bytes], Iterator[tuple[bytes, list[list[bytes]]]]] | None = None
    read_coding: Callable[[bytes], Coding] = lossy_coding
    encode: Callable[[Image.Image, Encoding], bytes] | None = None
    loss: Literal["always", "never", "optional"] = "always"
    below_jpeg: int | None = None

    @property
    def mime_type(self) -> str:
        """The registered MIME type."""
        return self.mime_types[0]

    @property
    def suffix(self) -> str:
        """The usual suffix, including its dot."""
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
            read_coding=jpeg.read_coding,
        ),
        ImageFormat(
            name="PNG",
            title="PNG",
            mime_types=("image/png", "image/apng"),
            suffixes=(".png",),
            container=png,
            decoder="imageprocessor.core.png_decoder:WholePngFile",
            trim=png.trim,
            read_coding=png.read_coding,
        ),
        ImageFormat(
            name="WEBP",
            title="WebP",
            mime_types=("image/webp",),
            suffixes=(".webp",),
            container=webp,
            decoder="PIL.WebPImagePlugin:WebPImageFile",
            keeps_buffers=True,  # two canvases
            shorten=webp.shorten,
            read_coding=webp.read_coding,
            encode=webp.encode,
            loss="optional",
            below_jpeg=5,
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
    """Return the formats as a list for use in a sentence.

    >>> join_titles("or")
    'JPEG, PNG or WebP'
    """
    *others, last = (row.title for row in FORMATS.values())
    return f"{', '.join(others)} {conjunction} {last}"
