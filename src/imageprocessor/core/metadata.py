"""The metadata of a picture: what there is, and the same file without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

from PIL import ImageCms

from imageprocessor.core.container import Piece, read_all
from imageprocessor.core.exif import Tags, Value, read_tags
from imageprocessor.core.formats import ImageFormat, sniff
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

    ``kinds`` names what is there, in the order of the file: "exif", "gps" (a place, in EXIF or XMP), "xmp", "icc",
    "iptc", "comment", "thumbnail", "c2pa", "mpf" (an index of further pictures), "gain_map", "time", "trailer" (bytes
    after the picture), "other".
    ``gps`` is EXIF's latitude and longitude in degrees, north and east positive. ``taken_at`` is local time as in
    "2021-06-01T12:00:00". ``icc`` is the colour profile's description. Texts hold printable characters only.
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

    Orientation and the ICC profile are kept, since the picture would look different without them. Text, previews,
    places, names, edit history, further pictures and whatever follows the picture are not. The cost is that of
    copying the file.

    Raises:
        InputError: as ``validate`` does; also ``TruncatedImageError`` if the file ends before the picture does, and
            ``InvalidImageError`` if a part of it does not follow the format.
    """
    with open_source(data) as file:
        container = CONTAINERS[validate(file, limits).format]
        pieces = list(container.read_pieces(read_all(file)))
    exif = _first_exif(pieces)
    orientation = read_orientation(exif.payload)
    if orientation != 1:
        pieces[pieces.index(exif)] = Piece(container.exif_piece(orientation_exif(orientation)))
    return container.join([piece.clean for piece in pieces])


def read_metadata(data: ImageSource) -> Metadata:
    """Tell what a picture gives away. What is damaged is left out.

    Raises:
        EmptyFileError: no bytes.
        UnsupportedTypeError: not a JPEG, PNG or WebP.
    """
    with open_source(data) as file:
        image_format = sniff(file, Limits())
        pieces = list(_readable_pieces(read_all(file), image_format))
    profile = [piece.payload for piece in pieces if "icc" in piece.kinds]
    exif = _first_exif(pieces).payload
    root = read_tags(exif, {_MAKE, _MODEL, _SOFTWARE, _EXIF_DIRECTORY})
    return Metadata(
        kinds=_unique_kinds(pieces),
        orientation=read_orientation(exif),
        gps=read_position(exif),
        camera=_camera(_text(root.get(_MAKE)), _text(root.get(_MODEL))),
        software=_text(root.get(_SOFTWARE)),
        taken_at=_read_time(_read_directory(exif, root.get(_EXIF_DIRECTORY), {_DATE_TIME_ORIGINAL})),
        icc=_describe_profile(CONTAINERS[image_format].decode_icc(profile)) if profile else None,
    )


def _readable_pieces(data: bytes, image_format: ImageFormat) -> Iterator[Piece]:
    with suppress(InputError):
        yield from CONTAINERS[image_format].read_pieces(data)


def _unique_kinds(pieces: Iterable[Piece]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for piece in pieces for kind in piece.kinds))


def _first_exif(pieces: Iterable[Piece]) -> Piece:
    """Return the EXIF piece that readers go by, the first; an empty one if there is none."""
    return next((piece for piece in pieces if "exif" in piece.kinds and piece.payload), Piece())


def _read_directory(exif: bytes, pointer: Value | None, wanted: Collection[int]) -> Tags:
    return read_tags(exif, wanted, offset=pointer[0]) if pointer else {}


def _read_time(tags: Tags) -> str | None:
    day, _, time = (_text(tags.get(_DATE_TIME_ORIGINAL)) or "").partition(" ")
    try:
        return datetime.fromisoformat(f"{day.replace(':', '-')}T{time}").isoformat()
    except ValueError:
        return None


def _camera(make: str | None, model: str | None) -> str | None:
    """Join make and model: many models ("NIKON D90") start with the make ("NIKON CORPORATION") already."""
    if make and model and not model.lower().startswith(make.split()[0].lower()):
        return f"{make} {model}"
    return model or make


def _text(value: Value | None) -> str | None:
    return _printable(value.partition(b"\0")[0].decode(errors="replace")) if isinstance(value, bytes) else None


def _printable(text: str) -> str | None:
    """Drop what a terminal would obey, such as escape sequences."""
    return "".join(filter(str.isprintable, text)).strip() or None


def _describe_profile(profile: bytes) -> str | None:
    try:
        return _printable(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))))
    except (ImageCms.PyCMSError, OSError):
        return None
