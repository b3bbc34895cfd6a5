"""Reading and removing the metadata of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import BinaryIO

from PIL import ImageCms

from imageprocessor.core.color.spaces import adobe_rgb_exif, is_adobe_rgb
from imageprocessor.core.exif import Value, read_tags
from imageprocessor.core.formats.container import (
    Container,
    Piece,
    file_size,
    find_exif,
    find_profile,
    truncated,
)
from imageprocessor.core.formats.registry import FORMATS, list_mime_types
from imageprocessor.core.formats.sniff import sniff
from imageprocessor.core.limits import Limits
from imageprocessor.core.orientation import (
    find_orientation,
    orientation_exif,
    read_orientation,
)
from imageprocessor.core.position import read_position
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.validate import validate
from imageprocessor.errors import InputError, StripUnsupportedError

_MAKE, _MODEL, _SOFTWARE, _EXIF_DIRECTORY = 0x010F, 0x0110, 0x0131, 0x8769
_DATE_TIME_ORIGINAL = 0x9003


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file contains besides its image.

    ``kinds`` names the metadata in file order: "exif", "gps" (a position, in EXIF or XMP), "xmp",
    "icc", "iptc", "comment", "thumbnail", "c2pa", "mpf" (an index of further images), "gain_map",
    "time", "trailer" (bytes after the image), "other". ``gps`` is EXIF's latitude and longitude in
    degrees; north and east are positive. ``taken_at`` is local time, such as "2021-06-01T12:00:00".
    ``icc`` is the description of the colour profile. Texts contain only printable characters.
    """

    kinds: tuple[str, ...] = ()
    orientation: int = 1
    gps: tuple[float, float] | None = None
    camera: str | None = None
    software: str | None = None
    taken_at: str | None = None
    icc: str | None = None


def strip_metadata(
    data: ImageSource, limits: Limits = Limits(), *, check_pixels: bool = False
) -> bytes:
    """Return the same file without its metadata; no pixel is changed.

    Orientation and the colour space are kept, because the image would look different without them.
    Text, previews, positions, names, edit history, further images and all bytes after the image are
    removed. This costs as much as copying the file, and for a PNG as much as decompressing it: no
    byte remains between its last pixel and its end mark. The file is read in blocks, so it takes
    about as much memory as the result, and a PNG twice that.

    In a JPEG, a WebP or a GIF, only a decoder can find the last pixel, and thus bytes hidden behind
    it within the coded data. *check_pixels* decodes the image and raises an error if there are such
    bytes; up to 9 of them may go unnoticed, and any number in a JPEG with arithmetic coding.

    Raises:
        StripUnsupportedError: The image is an AVIF or HEIC.
        InputError: The same errors as ``validate``; also ``TruncatedImageError`` if the file ends
            before the image does, or a JPEG or GIF without its end mark, and ``InvalidImageError``
            if a part does not follow the format. With *check_pixels*, they are also raised if
            pixels are missing, or if coded data follows the last pixel.
    """
    with open_source(data) as file:
        info = validate(file, limits)
        image_format = FORMATS[info.format]
        if not image_format.strips:
            raise StripUnsupportedError(
                f"The metadata of {image_format.title} files cannot be removed without re-encoding "
                "the image. Process it instead."
            )
        added_ends: list[Piece] = []
        parts = _clean_parts(file, image_format.container, added_ends)
        clean = image_format.container.join(parts, file_size(file))  # also fills *added_ends*
        if added_ends and (image_format.trim is None or info.frames > 1):
            raise truncated(file)
    if image_format.trim is not None:
        clean = image_format.trim(clean)
    if check_pixels:
        from imageprocessor.core.decoders.surplus import check_coded_data  # noqa: PLC0415 - loads decoders

        check_coded_data(clean, image_format, limits)
    return clean


def read_metadata(data: ImageSource) -> Metadata:
    """Return what a file contains besides its image, without damaged parts.

    Raises:
        EmptyFileError: The file has no bytes.
        UnsupportedTypeError: The file has no known format.
    """
    with open_source(data) as file:
        container = sniff(file, list_mime_types()).container
        pieces: list[Piece] = []
        with suppress(InputError):  # keep the pieces before the damage
            for piece in container.read_pieces(file):
                if piece.kinds or piece.layout:
                    pieces.append(piece._replace(clean=b""))  # noqa: PERF401 - see above
    kinds: dict[str, None] = {}  # a set that keeps its order
    for piece in pieces:
        kinds.update(dict.fromkeys(piece.kinds))
    exif = find_exif(pieces)
    tags = read_tags(exif, {_MAKE, _MODEL, _SOFTWARE, _EXIF_DIRECTORY})
    make = _text(tags.get(_MAKE))
    model = _text(tags.get(_MODEL))
    software = _text(tags.get(_SOFTWARE))
    taken_at = _read_time(exif, tags.get(_EXIF_DIRECTORY))
    profile = find_profile(pieces, container)
    return Metadata(
        kinds=tuple(kinds),
        orientation=find_orientation(pieces),
        gps=read_position(exif),
        camera=_join_make_and_model(make, model),
        software=software,
        taken_at=taken_at,
        icc=_describe_profile(profile),
    )


def _clean_parts(file: BinaryIO, container: Container, added_ends: list[Piece]) -> Iterator[bytes]:
    """Yield the clean part of each piece; reduce the first EXIF block to what changes the look.

    This is its orientation, unless that is 1, and the mark of Adobe RGB. Append an end mark that
    the file lacks to *added_ends*.
    """
    is_first_exif = True
    for piece in container.read_pieces(file):
        if piece.is_end_added:
            added_ends.append(piece)
        yield piece.clean
        if piece.exif and is_first_exif:
            is_first_exif = False
            orientation = read_orientation(piece.exif)
            if is_adobe_rgb(piece.exif):
                yield container.exif_piece(adobe_rgb_exif(orientation))
            elif orientation != 1:
                yield container.exif_piece(orientation_exif(orientation))


def _read_time(exif: bytes, directory: Value | None) -> str | None:
    """Return the time at which the photo was taken, from the EXIF directory at *directory*."""
    if directory is None:
        return None
    tags = read_tags(exif, {_DATE_TIME_ORIGINAL}, offset=directory[0])
    text = _text(tags.get(_DATE_TIME_ORIGINAL)) or ""
    day, _, time = text.partition(" ")
    iso_day = day.replace(":", "-")
    try:
        return datetime.fromisoformat(f"{iso_day}T{time}").isoformat()
    except ValueError:
        return None


def _join_make_and_model(make: str | None, model: str | None) -> str | None:
    """Return make and model, without repeating a make that the model includes.

    For example, the model "NIKON D90" includes the make "NIKON CORPORATION".
    """
    if make is None or model is None:
        return model or make
    first_word = make.split()[0].lower()
    return model if model.lower().startswith(first_word) else f"{make} {model}"


def _text(value: Value | None) -> str | None:
    """Return the printable text of an ASCII tag, or None if it has none."""
    if not isinstance(value, bytes):
        return None
    before_end = value.partition(b"\0")[0]
    return _printable(before_end.decode(errors="replace"))


def _printable(text: str) -> str | None:
    """Return the text without characters that could control a terminal, or None if none remain."""
    printable = "".join(filter(str.isprintable, text))
    return printable.strip() or None


def _describe_profile(profile: bytes | None) -> str | None:
    if profile is None:
        return None
    try:
        parsed = ImageCms.ImageCmsProfile(BytesIO(profile))
        return _printable(ImageCms.getProfileDescription(parsed))
    except (ImageCms.PyCMSError, OSError):
        return None
