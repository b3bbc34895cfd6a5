"""What decodes and encodes on this machine.

Pillow, the libraries in it, and whether every format really works.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import PIL
from PIL import Image, features

from imageprocessor.core.formats.registry import ImageFormat
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


def pillow_version() -> tuple[int, ...]:
    """Return the first two numbers of Pillow's version."""
    return tuple(int(number) for number in PIL.__version__.split(".")[:2])


def list_libraries() -> dict[str, str]:
    """Return the versions of Pillow, or Pillow-SIMD, under its name.

    And of the libraries that it was built with.
    """
    versions = {name: features.version(feature) for name, feature in LIBRARIES.items()}
    return {_engine(): PIL.__version__} | {name: found for name, found in versions.items() if found}


def _engine() -> str:
    """Tell the two that install PIL/ apart.

    Where both are installed, the one whose version runs.
    """
    try:
        return SIMD if version(SIMD) == PIL.__version__ else "Pillow"
    except PackageNotFoundError:
        return "Pillow"


def find_broken() -> dict[str, str]:
    """Make an image of one pixel in each format, decode it, encode it as WebP.

    Return what failed, and why.
    """
    return {name.value: fault for name in ImageFormat if (fault := _try_format(name))}


def _try_format(name: ImageFormat) -> str:
    try:
        file = BytesIO()
        Image.new("RGB", (1, 1)).save(file, name.value)
        process(file.getvalue(), [VariantSpec("probe", width=1)])
    except (
        OSError,
        KeyError,
        AttributeError,
        InputError,
    ) as error:  # as Pillow tells of a codec that it lacks
        return str(error)
    return ""
