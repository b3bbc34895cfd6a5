"""The table of image formats, one row each. All code that depends on a format reads it here.

"How to add a format" in CONTRIBUTING.md shows everything that a new format needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, BinaryIO, Literal

from imageprocessor.core.formats import avif, avif_encoder, gif, heic, jpeg, png, webp
from imageprocessor.core.formats.container import (
    Coding,
    Container,
    Frames,
    denser_coding,
    lossy_coding,
)
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.errors import MissingExtraError

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
        read_durations: yields the milliseconds of each frame as stored, from the headers alone;
            None for a format without animations.
        read_frames: returns the frames of an animation; None for a format that has none.
        encode: returns an encoded RGB or RGBA image; None for a format that is only read.
        loss: whether ``encode`` changes pixels; if optional, ``Encoding.lossless`` decides.
        below_jpeg: how much lower than that of an equally good JPEG the quality of ``encode`` is;
            None if the two cannot be compared.
        quality: of the encoder if none is requested; None if it loses nothing.
        max_pixels: the most that the encoder takes; None: as many as an output may have.
        frame_encoder: the function that encodes an animation, as "module:function".
        is_default: whether it is accepted unless the limits or settings name other formats.
        brands: what an ISO base media file (ISO/IEC 14496-12) of this format names in its header,
            the usual one first. Other formats are recognized by ``filetype``.
        strips: whether ``strip_metadata`` supports it.
        extra: the extra that its decoder needs, and *package* the package that the extra installs.
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
    read_durations: Callable[[BinaryIO], Iterator[float]] | None = None
    read_frames: Callable[[BinaryIO], Frames] | None = None
    encode: Callable[[Image.Image, Encoding], bytes] | None = None
    loss: Literal["always", "never", "optional"] = "always"
    below_jpeg: int | None = None
    quality: int | None = None
    max_pixels: int | None = None
    frame_encoder: str | None = None
    is_default: bool = False
    brands: tuple[bytes, ...] = ()
    strips: bool = True
    extra: str = ""
    package: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the package of its extra is installed; it is not imported."""
        return not self.package or find_spec(self.package) is not None

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
            is_default=True,
            read_coding=jpeg.read_coding,
            encode=jpeg.encode,
            below_jpeg=0,
            quality=85,
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
            read_durations=png.read_durations,
            is_default=True,
            encode=png.encode,
            loss="never",
            read_frames=png.read_frames,
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
            read_frames=webp.read_frames,
            encode=webp.encode,
            loss="optional",
            below_jpeg=5,
            quality=85,
            frame_encoder="imageprocessor.core.webp_encoder:encode_frames",
            read_durations=webp.read_durations,
            is_default=True,
        ),
        ImageFormat(
            name="GIF",
            title="GIF",
            mime_types=("image/gif",),
            suffixes=(".gif",),
            container=gif,
            decoder="imageprocessor.core.gif_decoder:FirstFrameFile",
            shorten=gif.shorten,
            read_coding=gif.read_coding,
            read_durations=gif.read_durations,
            read_frames=gif.read_frames,
        ),
        ImageFormat(
            name="AVIF",
            title="AVIF",
            mime_types=("image/avif",),
            suffixes=(".avif",),
            container=avif.CONTAINER,
            decoder="imageprocessor.core.avif_decoder:SingleThreadFile",
            read_coding=denser_coding,
            read_durations=avif.CONTAINER.read_durations,
            encode=avif_encoder.encode,
            quality=avif_encoder.QUALITY,
            max_pixels=avif_encoder.MAX_PIXELS,
            brands=(b"avif", b"avis"),
            strips=False,
        ),
        ImageFormat(
            name="HEIC",
            title="HEIC",
            mime_types=("image/heic",),
            suffixes=(".heic", ".heif"),
            container=heic.CONTAINER,
            decoder="imageprocessor.core.heic_decoder:HeicFile",
            read_coding=denser_coding,
            read_durations=heic.CONTAINER.read_durations,
            brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
            strips=False,
            extra="heic",
            package="pillow_heif",
        ),
    )
}

OUTPUT_FORMATS = {name.lower(): FORMATS[name] for name in ("AVIF", "WEBP", "JPEG", "PNG")}
"""The formats of variants by the name that a variant gives them, those with small files first."""

DEFAULT_OUTPUT = "webp"
"""The format of a variant that names none."""


def list_mime_types() -> tuple[str, ...]:
    """Return the MIME type of each format, in the order of the table."""
    return tuple(row.mime_type for row in FORMATS.values())


def list_default_mime_types() -> tuple[str, ...]:
    """Return the MIME types that are accepted unless others are named."""
    return tuple(row.mime_type for row in FORMATS.values() if row.is_default)


def list_installed_mime_types() -> tuple[str, ...]:
    """Return the MIME types of the formats that can be decoded here."""
    return tuple(row.mime_type for row in FORMATS.values() if row.is_installed)


def require_installed(mime_types: Collection[str]) -> None:
    """Raise ``MissingExtraError`` if the decoder of one of *mime_types* is not installed."""
    for row in FORMATS.values():
        if row.mime_type in mime_types and not row.is_installed:
            raise MissingExtraError(f"{row.title} ({row.mime_type})", row.extra)


def list_suffixes() -> tuple[str, ...]:
    """Return all suffixes of all formats, in the order of the table."""
    return tuple(suffix for row in FORMATS.values() for suffix in row.suffixes)


def find_output(file_name: str) -> ImageFormat | None:
    """Return the format of variants that a file name's suffix stands for, or None.

    >>> find_output("3f2b1c9e_medium.avif").mime_type
    'image/avif'
    """
    for output in OUTPUT_FORMATS.values():
        if file_name.lower().endswith(output.suffixes):
            return output
    return None


def join_titles(conjunction: str, mime_types: Collection[str]) -> str:
    """Return the formats of *mime_types* as a list for use in a sentence.

    >>> join_titles("or", list_default_mime_types())
    'JPEG, PNG or WebP'
    """
    *others, last = (row.title for row in FORMATS.values() if row.mime_type in mime_types)
    return f"{', '.join(others)} {conjunction} {last}" if others else last
