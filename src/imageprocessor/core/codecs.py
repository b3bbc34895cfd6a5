"""Pillow, the libraries built into it, and which formats work."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import PIL
from PIL import Image, features

from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import FORMATS, OUTPUT_FORMATS, ImageFormat
from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import InputError, InvalidVariantError

SIMD = "Pillow-SIMD"
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
    """Return the versions of Pillow (or Pillow-SIMD) and of the libraries built into it."""
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
    return versions


def find_broken(outputs: Iterable[str]) -> dict[str, str]:
    """Return the formats that do not work, each with the reason.

    Process an image of one pixel in each accepted format, and encode it in each of *outputs*.
    """
    attempts = [(row, _process_pixel) for row in FORMATS.values()]
    attempts += [(OUTPUT_FORMATS[output], _encode_pixel) for output in outputs]
    broken = {}
    for image_format, attempt in attempts:
        try:
            attempt(image_format)
        # Pillow raises these if a codec is missing.
        except (OSError, KeyError, AttributeError, InputError, InvalidVariantError) as error:
            broken[image_format.name] = str(error)
    return broken


def _process_pixel(image_format: ImageFormat) -> None:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, image_format.name)
    process(file.getvalue(), [VariantSpec("probe")])


def _encode_pixel(image_format: ImageFormat) -> None:
    assert image_format.encode is not None
    image_format.encode(Image.new("RGB", (1, 1)), Encoding(quality=85, effort=4))
