"""Decoding files to pixels, and translating decoder exceptions into this package's errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pkgutil import resolve_name
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile

from imageprocessor.core.color.deep import decode_16_bits, has_16_bits
from imageprocessor.core.color.spaces import DeclaredColors, list_declared_colors, list_profiles
from imageprocessor.core.decoders.jpeg import decode_by_scan
from imageprocessor.core.formats.container import (
    CodedData,
    Coding,
    Layout,
    Piece,
    file_size,
    find_color_chunks,
    find_exif,
    find_layout,
    find_profile,
)
from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits, check_dimensions
from imageprocessor.core.memory import require_memory
from imageprocessor.core.orientation import find_orientation
from imageprocessor.core.validate import ImageInfo
from imageprocessor.errors import (
    ImageProcessorError,
    InvalidImageError,
    TooManyPixelsError,
)

# No decoder uses more than 20 bytes per pixel (lossless WebP); the rest is a margin.
_MAX_BYTES_PER_PIXEL = 24
_MAX_OTHER_BYTES = 64 << 20
_KEY_SCALES = {"L;2": 85, "L;4": 17}
"""The factor that scales a level to 8 bits, by Pillow's raw mode."""

# Import the decoders with this module, so that a worker's first job does not wait for them. Others
# than the default ones are only imported where they are needed.
for _image_format in FORMATS.values():
    if _image_format.is_default:
        resolve_name(_image_format.decoder)


class Unpacked(NamedTuple):
    """The first image of a file, still encoded, separated from its metadata.

    ``orientation`` is EXIF's, 1 to 8; ``kinds`` names the metadata as in ``Metadata.kinds``.
    ``has_end_mark`` is false if the end mark was missing and was added. ``coded`` is the coded data
    of each scan of a JPEG, and empty for other formats. ``layout`` is that of an AVIF or HEIC.
    """

    image: BytesIO
    coding: Coding
    orientation: int
    colors: DeclaredColors
    kinds: frozenset[str]
    has_end_mark: bool
    coded: tuple[CodedData, ...]
    layout: Layout | None = None


def unpack(file: BinaryIO, info: ImageInfo) -> Unpacked:
    """Separate the image in a file that passed ``validate`` from its metadata.

    Raises:
        TruncatedImageError: The file ends before the image does.
        InvalidImageError: The container does not follow the format.
    """
    image_format = FORMATS[info.format]
    container = image_format.container
    metadata: list[Piece] = []
    coded: list[CodedData] = []
    parts = _keep_image(container.read_pieces(file), metadata, coded)
    image = container.join(parts, file_size(file))  # this also fills *metadata* and *coded*

    kinds: set[str] = set()
    has_end_mark = True
    for piece in metadata:
        kinds.update(piece.kinds)
        if piece.is_end_added:
            has_end_mark = False
    chunks = find_color_chunks(metadata)
    profile = find_profile(metadata, container)
    colors = list_declared_colors(chunks, profile, find_exif(metadata))
    return Unpacked(
        BytesIO(image),
        coding=image_format.read_coding(image),
        orientation=find_orientation(metadata),
        colors=colors,
        kinds=frozenset(kinds),
        has_end_mark=has_end_mark,
        coded=tuple(coded),
        layout=find_layout(metadata),
    )


def decode(
    unpacked: Unpacked, info: ImageInfo, limits: Limits, at_least: Dimensions | None = None
) -> Image.Image:
    """Return the image as stored, before orientation and sRGB, in L, LA, RGB, RGBA or CMYK.

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale if the result is still at least *at_least*, which
    saves most of the decoder's work. The ICC profiles that the image may have, the preferred one
    first, are in ``info["profiles"]``. The decoder gets the image without its metadata, so that
    metadata cannot make it fail or warn.

    Raises:
        InvalidImageError: The pixels do not follow the format.
        TruncatedImageError: The image is truncated.
        TooManyPixelsError, DimensionTooLargeError: The decoder finds a larger size in the file than
            the header declares, or a WebP has more than the 178 956 970 pixels that Pillow 13
            accepts.
        MemoryError: The decoder failed, and decoding could exceed the memory limit.
    """
    image_format = FORMATS[info.format]
    open_decoder = resolve_name(image_format.decoder)
    layout = unpacked.layout
    try:
        # Call the decoder class, because ``Image.open`` uses another class for some JPEGs. It also
        # warns about more than 89 million pixels even if ``limits`` allow them, with a setting that
        # applies to the whole process.
        decoder: ImageFile.ImageFile = open_decoder(unpacked.image)
        check_dimensions(*decoder.size, limits)
        decoder.draft(None, at_least)
        if unpacked.coded:
            decode_by_scan(decoder, unpacked.coded, has_end_mark=unpacked.has_end_mark)
        if has_16_bits(decoder):
            image, profiles = decode_16_bits(decoder, unpacked.image, unpacked.colors)
        else:
            _scale_transparent_key(decoder)
            decoder.load()
            image = _to_8_bits(decoder)
            profiles = list_profiles(unpacked.colors, image.mode)
    except (ImageProcessorError, MemoryError):  # from check_dimensions or a time limit
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f"The image has more pixels than its decoder accepts ({error}). Scale it down."
        ) from error
    # On hostile bytes, decoders raise OSError, SyntaxError, struct.error, …
    except Exception as error:
        # A decoder that runs out of memory often reports damage. If all the memory that it could
        # need is available, the damage is real; otherwise this raises MemoryError.
        width, height = layout[:2] if layout else (info.width, info.height)
        most_bytes = width * height * _MAX_BYTES_PER_PIXEL + _MAX_OTHER_BYTES
        require_memory(most_bytes, "to decode the image")
        reason = str(error) or type(error).__name__
        raise InvalidImageError(
            f"The {info.format} cannot be decoded ({reason}). Re-encode it."
        ) from error
    if layout is not None:
        if image.size != layout[:2]:
            raise InvalidImageError(
                f"The {info.format} declares {layout.width} x {layout.height} pixels, but has "
                f"{image.width} x {image.height}. Re-encode it."
            )
        image = image.crop(layout.box)
    elif image_format.keeps_buffers:
        image = image.copy()
    image.info["profiles"] = profiles
    return image


def _keep_image(
    pieces: Iterable[Piece], metadata: list[Piece], coded: list[CodedData]
) -> Iterator[bytes]:
    """Yield the file without its metadata, its colour space and, in a PNG, its animation.

    Append the pieces that have metadata or declare a colour space, and an added end mark, to
    *metadata*. Append the coded data of each scan of a JPEG to *coded*.
    """
    position = 0
    for piece in pieces:
        if piece.kinds or piece.color_chunk or piece.is_end_added or piece.layout:
            metadata.append(piece._replace(clean=b""))
        declares_colors = piece.color_chunk or "icc" in piece.kinds
        if declares_colors or piece.is_animation:
            continue
        end = position + len(piece.clean)
        if piece.is_coded:
            continues = coded and coded[-1].end == position
            start = coded.pop().start if continues else position
            coded.append(CodedData(start, end))
        position = end
        yield piece.clean


def _scale_transparent_key(decoder: ImageFile.ImageFile) -> None:
    """Scale the transparent colour of a PNG to 8 bits, as Pillow scales the pixels."""
    key = decoder.info.get("transparency")
    if key is None or not decoder.tile:
        return
    raw_mode = str(decoder.tile[0].args)
    scale = _KEY_SCALES.get(raw_mode)
    if scale is None:
        return
    if isinstance(key, tuple):
        decoder.info["transparency"] = tuple(int(level * scale) for level in key)
    else:
        decoder.info["transparency"] = int(key * scale)


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return image
    if image.mode == "I;16":  # a gray HEIC of more than 8 bits; ``convert`` would clip the levels
        high_bytes = image.tobytes()[1::2]
        return Image.frombytes("L", image.size, high_bytes)
    mode = "L" if image.mode in {"1", "L", "LA"} else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return image if image.mode == mode else image.convert(mode)
