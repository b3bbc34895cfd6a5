"""From an encoded file to pixels; what a decoder raises becomes an error of this package here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imageprocessor.core.formats.container import Piece, file_size
from imageprocessor.core.formats.registry import ImageFormat
from imageprocessor.core.limits import Limits, check_dimensions
from imageprocessor.core.memory import require_memory
from imageprocessor.core.orientation import read_orientation
from imageprocessor.core.validate import CONTAINERS, ImageInfo
from imageprocessor.core.variants import Dimensions
from imageprocessor.errors import ImageProcessorError, InvalidImageError, TooManyPixelsError

_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    ImageFormat.JPEG: JpegImageFile,
    ImageFormat.PNG: PngImageFile,
    ImageFormat.WEBP: WebPImageFile,
}
# The most that any decoder takes is 20 bytes a pixel (lossless WebP), and what surrounds it less
# than the rest.
_MAX_BYTES_PER_PIXEL = 24
_MAX_OTHER_BYTES = 64 << 20
_KEY_SCALE = {"L;2": 85, "L;4": 17, "I;16B": 1 / 256, "RGB;16B": 1 / 256}


class Unpacked(NamedTuple):
    """What is in a file: its first picture alone, still encoded, and what lay beside it.

    ``orientation`` is EXIF's, 1 to 8; ``profile`` is the ICC profile; ``kinds`` names the metadata,
    as in ``Metadata.kinds``.
    """

    picture: BytesIO
    orientation: int
    profile: bytes | None
    kinds: frozenset[str]


def unpack(file: BinaryIO, info: ImageInfo) -> Unpacked:
    """Take apart a file that ``validate`` has passed.

    Raises:
        TruncatedImageError: the file ends before the picture does.
        InvalidImageError: the container does not follow the format.
    """
    container = CONTAINERS[info.format]
    metadata: list[Piece] = []
    picture = container.join(_picture_alone(container.read_pieces(file), metadata), file_size(file))
    profile = [piece.payload for piece in metadata if "icc" in piece.kinds]
    return Unpacked(
        BytesIO(picture),
        read_orientation(next((piece.exif for piece in metadata if piece.exif), None)),
        container.decode_icc(profile) if profile else None,
        frozenset(kind for piece in metadata for kind in piece.kinds),
    )


def decode(
    unpacked: Unpacked, info: ImageInfo, limits: Limits, at_least: Dimensions | None = None
) -> Image.Image:
    """Decode the picture as stored, neither turned nor in sRGB.

    Mode L, LA, RGB, RGBA or CMYK, 8 bits each.

    A JPEG comes at a half, a quarter or an eighth of its size where that is *at_least* as large as
    asked: its decoder then leaves out the work for the rest. The profile is in
    ``info["icc_profile"]``. The decoder is given the picture
    alone: whatever metadata the file has, it cannot make the decoder fail or warn.

    Raises:
        InvalidImageError: the pixels do not follow the format.
        TruncatedImageError: the picture is cut.
        TooManyPixelsError, DimensionTooLargeError: the decoder reads a larger size out of the file
            than the header
            told, or a WebP is above the 178 956 970 pixels that Pillow 13 takes at most.
        MemoryError: there may be too little memory for a picture of that size, and the decoder
            failed.
    """
    image = _decode_pixels(unpacked.picture, info, limits, at_least)
    if unpacked.profile is not None:
        image.info["icc_profile"] = unpacked.profile
    return image


def _picture_alone(pieces: Iterable[Piece], metadata: list[Piece]) -> Iterator[bytes]:
    """Yield the file without metadata, profile and, in a PNG, animation.

    Put what it tells into *metadata*.
    """
    for piece in pieces:
        if piece.kinds:
            metadata.append(piece._replace(clean=b""))
        if "icc" not in piece.kinds and not piece.is_animation:
            yield piece.clean


def _decode_pixels(
    file: BinaryIO, info: ImageInfo, limits: Limits, at_least: Dimensions | None
) -> Image.Image:
    """Run the one decoder of the format.

    It is called by its class, because ``Image.open`` would put another in its place for some JPEGs,
    and warns for the whole process about more than 89 million pixels even where ``limits`` allow
    them.
    """
    try:
        image = _DECODERS[info.format](file)
        check_dimensions(*image.size, limits)
        image.draft(None, at_least)
        _scale_transparent_key(image)
        image.load()
        picture = _to_8_bits(image)
    except (ImageProcessorError, MemoryError):  # of the picture, or of a time limit
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f"The picture has more pixels than its decoder takes ({error}): scale it down."
        ) from error
    except (
        Exception
    ) as error:  # decoders of hostile bytes raise OSError, SyntaxError, struct.error, …
        # Decoders tell lack of memory in the words of damage; where all that they may need is left,
        # it was no lack.
        require_memory(
            info.width * info.height * _MAX_BYTES_PER_PIXEL + _MAX_OTHER_BYTES,
            "to decode the picture",
        )
        reason = str(error) or type(error).__name__
        raise InvalidImageError(
            f"The {info.format} cannot be decoded ({reason}): save it anew."
        ) from error
    # A WebP keeps its decoder, and with it two more canvases, for as long as it lives.
    return picture.copy() if info.format == ImageFormat.WEBP else picture


def _scale_transparent_key(image: ImageFile.ImageFile) -> None:
    """Bring the one colour that a PNG names transparent to 8 bits.

    Pillow does that with the pixels only.
    """
    key = image.info.get("transparency")
    scale = _KEY_SCALE.get(str(image.tile[0].args)) if image.tile else None
    if key is not None and scale is not None:
        image.info["transparency"] = (
            tuple(int(v * scale) for v in key) if isinstance(key, tuple) else int(key * scale)
        )


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return image
    if image.mode == "I;16":
        image = image.point(lambda level: level * (1 / 256)).convert(
            "L"
        )  # convert alone would clip at 255
    mode = "L" if image.mode in {"1", "L", "LA"} else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return image if image.mode == mode else image.convert(mode)
