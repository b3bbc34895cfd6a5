"""The metadata of a picture: what there is, and the same file without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import BinaryIO

from PIL import ImageCms

from imageprocessor.core.exif import Tags, Value, read_tags
from imageprocessor.core.formats.container import Container, Piece, file_size
from imageprocessor.core.formats.registry import ImageFormat, sniff
from imageprocessor.core.limits import Limits
from imageprocessor.core.orientation import orientation_exif, read_orientation
from imageprocessor.core.position import read_position
from imageprocessor.core.source import ImageSource, open_source
from imageprocessor.core.validate import CONTAINERS, validate
from imageprocessor.errors import InputError

_MAKE, _MODEL, _SOFTWARE, _EXIF_DIRECTORY = 0x010F, 0x0110, 0x0131, 0x8769
_DATE_TIME_ORIGINAL = 0x9003


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file tells besides its picture.

    ``kinds`` names what is there, in the order of the file: "exif", "gps" (a place, in EXIF or
    XMP), "xmp", "icc", "iptc", "comment", "thumbnail", "c2pa", "mpf" (an index of further
    pictures), "gain_map", "time", "trailer" (bytes after the picture), "other". ``gps`` is EXIF's
    latitude and longitude in degrees, north and east positive. ``taken_at`` is local time as in
    "2021-06-01T12:00:00". ``icc`` is the colour profile's description. Texts hold printable
    characters only.
    """

    kinds: tuple[str, ...] = ()
    orientation: int = 1
    gps: tuple[float, float] | None = None
    camera: str | None = None
    software: str | None = None
    taken_at: str | None = None
    icc: str | None = None


def strip_metadata(data: ImageSource, limits: Limits = Limits()) -> bytes:
    """Return the same file without its metadata; no pixel is decoded or changed.

    Orientation and the ICC profile are kept, since the picture would look different without them.
    Text, previews, places, names, edit history, further pictures and whatever follows the picture
    are not. The cost is that of
    copying the file, which is read in blocks: about as much memory is taken as the result needs.

    Raises:
        InputError: as ``validate`` does; also ``TruncatedImageError`` if the file ends before the
            picture does, and
            ``InvalidImageError`` if a part of it does not follow the format.
    """
    with open_source(data) as file:
        container = CONTAINERS[validate(file, limits).format]
        return container.join(_clean_parts(file, container), file_size(file))


def read_metadata(data: ImageSource) -> Metadata:
    """Tell what a picture gives away. What is damaged is left out.

    Raises:
        EmptyFileError: no bytes.
        UnsupportedTypeError: not a JPEG, PNG or WebP.
    """
    with open_source(data) as file:
        image_format = sniff(file, Limits())
        pieces = [
            piece._replace(clean=b"")
            for piece in _readable_pieces(file, image_format)
            if piece.kinds
        ]
    profile = [piece.payload for piece in pieces if "icc" in piece.kinds]
    exif = next((piece.exif for piece in pieces if piece.exif), b"")
    root = read_tags(exif, {_MAKE, _MODEL, _SOFTWARE, _EXIF_DIRECTORY})
    return Metadata(
        kinds=_unique_kinds(pieces),
        orientation=read_orientation(exif),
        gps=read_position(exif),
        camera=_camera(_text(root.get(_MAKE)), _text(root.get(_MODEL))),
        software=_text(root.get(_SOFTWARE)),
        taken_at=_read_time(
            _read_directory(exif, root.get(_EXIF_DIRECTORY), {_DATE_TIME_ORIGINAL})
        ),
        icc=_describe_profile(CONTAINERS[image_format].decode_icc(profile)) if profile else None,
    )


def _clean_parts(file: BinaryIO, container: Container) -> Iterator[bytes]:
    """Yield what is left of each piece.

    And in the place of the first EXIF one of the orientation alone.
    """
    pieces = container.read_pieces(file)
    for piece in pieces:
        yield piece.clean
        if piece.exif:
            orientation = read_orientation(piece.exif)
            yield b"" if orientation == 1 else container.exif_piece(orientation_exif(orientation))
            break
    yield from (piece.clean for piece in pieces)


def _readable_pieces(file: BinaryIO, image_format: ImageFormat) -> Iterator[Piece]:
    with suppress(InputError):
        yield from CONTAINERS[image_format].read_pieces(file)


def _unique_kinds(pieces: Iterable[Piece]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for piece in pieces for kind in piece.kinds))


def _read_directory(exif: bytes, pointer: Value | None, wanted: Collection[int]) -> Tags:
    return read_tags(exif, wanted, offset=pointer[0]) if pointer else {}


def _read_time(tags: Tags) -> str | None:
    day, _, time = (_text(tags.get(_DATE_TIME_ORIGINAL)) or "").partition(" ")
    try:
        return datetime.fromisoformat(f"{day.replace(':', '-')}T{time}").isoformat()
    except ValueError:
        return None


def _camera(make: str | None, model: str | None) -> str | None:
    """Join make and model.

    Many models ("NIKON D90") start with the make ("NIKON CORPORATION") already.
    """
    if make and model and not model.lower().startswith(make.split()[0].lower()):
        return f"{make} {model}"
    return model or make


def _text(value: Value | None) -> str | None:
    return (
        _printable(value.partition(b"\0")[0].decode(errors="replace"))
        if isinstance(value, bytes)
        else None
    )


def _printable(text: str) -> str | None:
    """Drop what a terminal would obey, such as escape sequences."""
    return "".join(filter(str.isprintable, text)).strip() or None


def _describe_profile(profile: bytes) -> str | None:
    try:
        return _printable(
            ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
        )
    except (ImageCms.PyCMSError, OSError):
        return None
