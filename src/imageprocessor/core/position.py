"""Where a picture was taken, if its metadata tells."""

from __future__ import annotations

import re

from imageprocessor.core.exif import Tags, Value, read_tags

_GPS_DIRECTORY = 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_IN_XMP = re.compile(rb"exif:GPS(Latitude|Longitude)\s*(?:=\s*[\"']|>)\s*\d")


def read_position(exif: bytes) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees, north and east positive, from an EXIF block.

    None if there are none.
    """
    pointer = read_tags(exif, {_GPS_DIRECTORY}).get(_GPS_DIRECTORY)
    wanted = {_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE}
    tags: Tags = read_tags(exif, wanted, offset=int(pointer[0])) if pointer else {}
    latitude = _degrees(tags.get(_LATITUDE), tags.get(_LATITUDE_REF), negative=b"S")
    longitude = _degrees(tags.get(_LONGITUDE), tags.get(_LONGITUDE_REF), negative=b"W")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude


def xmp_has_position(xmp: bytes) -> bool:
    """Return whether an XMP packet has a latitude and a longitude, as attributes or as elements.

    >>> xmp_has_position(b'<a exif:GPSLatitude="33,51.6S" exif:GPSLongitude="151,12.7E"/>')
    True
    """
    return len(set(_IN_XMP.findall(xmp))) == 2


def _degrees(value: Value | None, reference: Value | None, *, negative: bytes) -> float | None:
    """Turn degrees, minutes and seconds, each a numerator and a denominator, into degrees."""
    if not isinstance(value, tuple) or len(value) != 6 or 0 in value[1::2]:
        return None
    degrees, minutes, seconds = (value[index] / value[index + 1] for index in (0, 2, 4))
    sign = -1 if isinstance(reference, bytes) and reference.upper().startswith(negative) else 1
    return round(sign * (degrees + minutes / 60 + seconds / 3600), 7)
