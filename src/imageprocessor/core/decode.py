"""From an encoded file to pixels; what a decoder raises becomes an error of this package here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pkgutil import resolve_name
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile

from imageprocessor.core.formats.container import Piece, file_size, find_exif, find_profile
from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.limits import Limits, check_dimensions
from imageprocessor.core.memory import require_memory
from imageprocessor.core.orientation import read_orientation
from imageprocessor.core.validate import ImageInfo
from imageprocessor.errors import ImageProcessorError, InvalidImageError, TooManyPixelsError

# No decoder takes more than 20 bytes a pixel (lossless WebP); the rest covers what surrounds it.
_MAX_BYTES_PER_PIXEL = 24
_MAX_OTHER_BYTES = 64 << 20
_KEY_SCALES = {"L;2": 85, "L;4": 17, "I;16B": 1 / 256, "RGB;16B": 1 / 256}
"""By Pillow's raw mode, the factor that brings a level to 8 bits."""

# Loaded with this module, so that the first job of a worker does not wait for them
for _image_format in FORMATS.values():
    resolve_name(_image_format.decoder)


class Unpacked(NamedTuple):
    """What is in a file: its first image alone, still encoded, and what lay beside it.

    ``orientation`` is EXIF's, 1 to 8; ``profile`` is the ICC profile; ``kinds`` names the metadata,
    as in ``Metadata.kinds``.
    """

    image: BytesIO
    orientation: int
    profile: bytes | None
    kinds: frozenset[str]


def unpack(file: BinaryIO, info: ImageInfo) -> Unpacked:
    """Take apart a file that ``validate`` has passed.

    Raises:
        TruncatedImageError: the file ends before the image does.
        InvalidImageError: the container does not follow the format.
    """
    container = FORMATS[info.format].container
    metadata: list[Piece] = []
    parts = _image_alone(container.read_pieces(file), metadata)
    image = container.join(parts, file_size(file))  # fills *metadata*, too
    kinds: set[str] = set()
    for piece in metadata:
        kinds.update(piece.kinds)
    orientation = read_orientation(find_exif(metadata))
    profile = find_profile(metadata, container)
    return Unpacked(BytesIO(image), orientation, profile, frozenset(kinds))


def decode(
    unpacked: Unpacked, info: ImageInfo, limits: Limits, at_least: Dimensions | None = None
) -> Image.Image:
    """Return the image as stored, neither turned nor in sRGB, in L, LA, RGB, RGBA or CMYK.

    A JPEG comes at a half, a quarter or an eighth of its size where that is *at_least* as large as
    asked: its decoder then leaves out the work for the rest. The profile is in
    ``info["icc_profile"]``. The decoder is given the image alone: whatever metadata the file has,
    it cannot make the decoder fail or warn.

    Raises:
        InvalidImageError: the pixels do not follow the format.
        TruncatedImageError: the image is cut.
        TooManyPixelsError, DimensionTooLargeError: the decoder reads a larger size out of the file
            than the header says, or a WebP is above the 178 956 970 pixels that Pillow 13 takes at
            most.
        MemoryError: there may be too little memory for an image of that size, and the decoder
            failed.
    """
    image_format = FORMATS[info.format]
    try:
        # The decoder's class is called, because ``Image.open`` would put another in its place for
        # some JPEGs, and warns for the whole process about more than 89 million pixels even where
        # ``limits`` allow them.
        decoder: ImageFile.ImageFile = resolve_name(image_format.decoder)(unpacked.image)
        check_dimensions(*decoder.size, limits)
        decoder.draft(None, at_least)
        _scale_transparent_key(decoder)
        decoder.load()
        image = _to_8_bits(decoder)
    except (ImageProcessorError, MemoryError):  # from check_dimensions, or of a time limit
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f"The picture has more pixels than its decoder takes ({error}): scale it down."
        ) from error
    # Decoders of hostile bytes raise OSError, SyntaxError, struct.error, …
    except Exception as error:
        # A decoder that lacks memory often reports damage. Where all that it may need is left, the
        # damage is real; else this raises MemoryError.
        most_bytes = info.width * info.height * _MAX_BYTES_PER_PIXEL + _MAX_OTHER_BYTES
        require_memory(most_bytes, "to decode the picture")
        reason = str(error) or type(error).__name__
        raise InvalidImageError(
            f"The {info.format} cannot be decoded ({reason}): save it anew."
        ) from error
    if image_format.keeps_buffers:
        image = image.copy()
    if unpacked.profile is not None:
        image.info["icc_profile"] = unpacked.profile
    return image


def _image_alone(pieces: Iterable[Piece], metadata: list[Piece]) -> Iterator[bytes]:
    """Yield the file without metadata, profile and, in a PNG, animation.

    The pieces with metadata are appended to *metadata*.
    """
    for piece in pieces:
        if piece.kinds:
            metadata.append(piece._replace(clean=b""))
        if "icc" not in piece.kinds and not piece.is_animation:
            yield piece.clean


def _scale_transparent_key(decoder: ImageFile.ImageFile) -> None:
    """Scale the one colour that a PNG names transparent to 8 bits, as Pillow does the pixels."""
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
    if image.mode == "I;16":
        # convert alone would clip at 255
        image = image.point(lambda level: level * (1 / 256)).convert("L")
    mode = "L" if image.mode in {"1", "L", "LA"} else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return image if image.mode == mode else image.convert(mode)
