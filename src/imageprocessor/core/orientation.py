"""Reading, applying and writing EXIF orientation."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from PIL import Image

from imageprocessor.core.exif import SHORT, read_tags
from imageprocessor.core.formats.container import Piece, find_exif, find_layout

_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(exif: bytes | None) -> int:
    """Return the orientation, 1 to 8, from an EXIF block with or without its prefix "Exif".

    Return 1, the image as stored, if the block is missing or broken, or its value is out of range.
    Browsers do the same.

    >>> read_orientation(orientation_exif(6)), read_orientation(b"nonsense"), read_orientation(None)
    (6, 1, 1)
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    value = read_tags(tiff, {_TAG}).get(_TAG)
    if not isinstance(value, tuple) or len(value) != 1:
        return 1
    [orientation] = value
    return orientation if 1 <= orientation <= 8 else 1


def find_orientation(pieces: Sequence[Piece]) -> int:
    """Return the orientation that the pieces of a file declare: by its layout, else by its EXIF."""
    layout = find_layout(pieces)
    return layout.orientation if layout else read_orientation(find_exif(pieces))


def swaps_sides(orientation: int) -> bool:
    """Return whether the image is stored sideways: its stored width is its displayed height."""
    return orientation >= 5


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the stored image rotated and mirrored so that it is upright.

    If *orientation* is 1, return *image* itself.
    """
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def orientation_exif(orientation: int) -> bytes:
    """Return the smallest EXIF block with an orientation: 26 bytes without the prefix "Exif"."""
    header = struct.pack(">4sI", b"MM\0*", 8)
    entry_count = struct.pack(">H", 1)
    entry = struct.pack(">HHIHH", _TAG, SHORT, 1, orientation, 0)
    no_next_directory = struct.pack(">I", 0)
    return header + entry_count + entry + no_next_directory
