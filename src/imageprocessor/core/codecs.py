"""Pillow, the libraries built into it, and which formats work."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pkgutil import resolve_name

import PIL
from PIL import Image, features

from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import InputError

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


def find_broken(mime_types: Collection[str]) -> dict[str, str]:
    """Return the formats among *mime_types* that do not work, each with the reason.

    For each format, create an image of one pixel, decode it, and encode it as a variant.
    """
    probe = VariantSpec("probe", width=1)
    broken = {}
    for name, image_format in FORMATS.items():
        if image_format.mime_type not in mime_types:
            continue
        file = BytesIO()
        try:
            resolve_name(image_format.decoder)  # this registers the encoder of an extra
            Image.new("RGB", (1, 1)).save(file, image_format.name)
            process(file.getvalue(), [probe], Limits(mime_types=frozenset(mime_types)))
        # Pillow raises these if a codec is missing.
        except (OSError, KeyError, AttributeError, ImportError, InputError) as error:
            broken[name] = str(error)
    return broken
