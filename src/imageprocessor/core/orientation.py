"""EXIF orientation: read it, apply it, write it."""

from __future__ import annotations

import struct

from PIL import Image

from imageprocessor.core.exif import SHORT, read_tags

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
    """Return the orientation, 1 to 8, that an EXIF block (with or without its prefix "Exif") tells.

    A block that is missing, broken or out of range means 1, the picture as it is stored: browsers
    do the same.

    >>> read_orientation(orientation_exif(6)), read_orientation(b"nonsense"), read_orientation(None)
    (6, 1, 1)
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    value = read_tags(tiff, {_TAG}).get(_TAG)
    return (
        value[0] if isinstance(value, tuple) and len(value) == 1 and value[0] in range(1, 9) else 1
    )


def swaps_sides(orientation: int) -> bool:
    """Tell whether the picture is stored on its side.

    What is its width as stored is its height as seen.
    """
    return orientation >= 5


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn and mirror the stored pixels so that they look as the photographer saw them.

    1 returns ``image`` itself.
    """
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def orientation_exif(orientation: int) -> bytes:
    """Return the smallest EXIF block that says ``orientation``.

    26 bytes, without the prefix "Exif".
    """
    return struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, _TAG, SHORT, 1, orientation, 0, 0)
