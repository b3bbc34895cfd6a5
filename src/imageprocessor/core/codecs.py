"""Pillow, the libraries built into it, and which formats work."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pkgutil import resolve_name

import PIL
from PIL import Image, features

from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import FORMATS, OUTPUT_FORMATS, ImageFormat
from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import InputError, InvalidVariantError

SIMD = "Pillow-SIMD"
HEIF = "pillow-heif"
LIBRARIES = {
    "libjpeg-turbo": "libjpeg_turbo",
    "libwebp": "webp",
    "libavif": "avif",
    "LittleCMS": "littlecms2",
    "zlib-ng": "zlib_ng",
    "zlib": "zlib",
}
"""Pillow's name for each library, by the name that we show."""


def pillow_version() -> tuple[int, ...]:
    """Return the first two numbers of Pillow's version."""
    major_and_minor = PIL.__version__.split(".")[:2]
    return tuple(int(number) for number in major_and_minor)


def list_libraries() -> dict[str, str]:
    """Return the versions of Pillow (or Pillow-SIMD), the libraries in it, and pillow-heif."""
    pillow = "Pillow"
    with suppress(PackageNotFoundError):
        # If both are installed, PIL is the one whose version matches.
        if version(SIMD) == PIL.__version__:
            pillow = SIMD
    versions = {pillow: PIL.__version__}
    for name, feature in LIBRARIES.items():
        found = features.version(feature)
        if found:
            versions[name] = found
    with suppress(PackageNotFoundError):
        versions[HEIF] = version(HEIF)
    return versions


def find_broken(mime_types: Collection[str], outputs: Iterable[str]) -> dict[str, str]:
    """Return the formats that do not work, each with the reason.

    Process an image of one pixel in each format among *mime_types*, and encode it in each of
    *outputs*.
    """
    accepted = [row for row in FORMATS.values() if row.mime_type in mime_types]
    attempts = [(row, _process_pixel) for row in accepted]
    attempts += [(OUTPUT_FORMATS[output], _encode_pixel) for output in outputs]
    broken = {}
    for image_format, attempt in attempts:
        try:
            attempt(image_format)
        # Pillow and Python raise these if a codec is missing.
        except (OSError, KeyError, AttributeError, ImportError) as error:
            broken[image_format.name] = str(error)
        except (InputError, InvalidVariantError) as error:
            broken[image_format.name] = str(error)
    return broken


def _process_pixel(image_format: ImageFormat) -> None:
    resolve_name(image_format.decoder)  # this registers the encoder of an extra
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, image_format.name)
    limits = Limits(mime_types=frozenset({image_format.mime_type}))
    process(file.getvalue(), [VariantSpec("probe")], limits)


def _encode_pixel(image_format: ImageFormat) -> None:
    assert image_format.encode is not None
    image_format.encode(Image.new("RGB", (1, 1)), Encoding(quality=85, effort=4))
