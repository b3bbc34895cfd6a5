"""Reading the position at which a photo was taken from its metadata."""

from __future__ import annotations

import re

from imageprocessor.core.exif import Tags, Value, read_tags

_GPS_DIRECTORY = 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_IN_XMP = re.compile(rb"exif:GPS(Latitude|Longitude)\s*(?:=\s*[\"']|>)\s*\d")


def read_position(exif: bytes) -> tuple[float, float] | None:
    """Return latitude and longitude from an EXIF block, or None if it does not have both.

    They are in degrees; north and east are positive. Minutes or seconds of 0/0, which means
    unknown, count as 0.
    """
    tags = _read_gps_tags(exif)
    latitude = _to_degrees(tags.get(_LATITUDE))
    longitude = _to_degrees(tags.get(_LONGITUDE))
    if latitude is None or longitude is None:
        return None
    if abs(latitude) > 90 or abs(longitude) > 180:
        return None
    if _starts_with(tags.get(_LATITUDE_REF), b"S"):
        latitude = -latitude
    if _starts_with(tags.get(_LONGITUDE_REF), b"W"):
        longitude = -longitude
    return latitude, longitude


def exif_has_position(exif: bytes) -> bool:
    """Return whether an EXIF block has a latitude and a longitude of which any part is known.

    Minutes beside degrees of 0/0 are no position, but still narrow down the place.
    """
    tags = _read_gps_tags(exif)
    return _has_known_part(tags.get(_LATITUDE)) and _has_known_part(tags.get(_LONGITUDE))


def xmp_has_position(xmp: bytes) -> bool:
    """Return whether an XMP packet has a latitude and a longitude, as attributes or as elements.

    >>> xmp_has_position(b'<a exif:GPSLatitude="33,51.6S" exif:GPSLongitude="151,12.7E"/>')
    True
    """
    return len(set(_IN_XMP.findall(xmp))) == 2


def _read_gps_tags(exif: bytes) -> Tags:
    pointer = read_tags(exif, {_GPS_DIRECTORY}).get(_GPS_DIRECTORY)
    if pointer is None:
        return {}
    wanted = {_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE}
    return read_tags(exif, wanted, offset=int(pointer[0]))


def _has_known_part(value: Value | None) -> bool:
    return isinstance(value, tuple) and any(value[1::2])


def _to_degrees(value: Value | None) -> float | None:
    """Convert degrees, minutes and seconds, each a numerator and a denominator, to degrees."""
    if not isinstance(value, tuple) or len(value) != 6:
        return None
    if value[1] == 0:
        return None
    degrees = value[0] / value[1]
    minutes = value[2] / value[3] if value[3] else 0
    seconds = value[4] / value[5] if value[5] else 0
    return round(degrees + minutes / 60 + seconds / 3600, 7)


def _starts_with(reference: Value | None, letter: bytes) -> bool:
    return isinstance(reference, bytes) and reference.upper().startswith(letter)
