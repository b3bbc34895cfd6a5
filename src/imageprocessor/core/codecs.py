"""Pillow, the libraries built into it, and which formats work."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import PIL
from PIL import Image, features

from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import InputError

SIMD = "Pillow-SIMD"
LIBRARIES = {
    "libjpeg-turbo": "libjpeg_turbo",
    "libwebp": "webp",
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


def find_broken() -> dict[str, str]:
    """Return the formats that do not work, each with the reason.

    For each format, create an image of one pixel, decode it, and encode it as a variant.
    """
    probe = VariantSpec("probe", width=1)
    broken = {}
    for name, image_format in FORMATS.items():
        file = BytesIO()
        try:
            Image.new("RGB", (1, 1)).save(file, image_format.name)
            process(file.getvalue(), [probe])
        # Pillow raises these if a codec is missing.
        except (OSError, KeyError, AttributeError, InputError) as error:
            broken[name] = str(error)
    return broken
