"""Turns an untrusted upload into clean, upright, colour-correct, metadata-free web images.

    import imageprocessor as ip

    info   = ip.validate(data)         # ImageInfo(format, mime_type, width, height, frames) clean
    = ip.strip_metadata(data)   # the same file without what it gives away; pixels untouched color
    = ip.dominant_color(data)   # "#3A5F8C" result = ip.process(data)          #
    result.variants["thumbnail"].data are the bytes of a WebP file store  =
    ip.open_storage("local:///var/lib/images")

``data`` is bytes, a path or a binary file object. Everything raised on purpose derives from
``ImageProcessorError``.

Each name is loaded when it is first used: with the decoders and colour management, all of them take
60 ms.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imageprocessor.core.limits import Limits
    from imageprocessor.core.metadata import strip_metadata
    from imageprocessor.core.pipeline import ProcessedImage, dominant_color, process
    from imageprocessor.core.validate import ImageInfo, validate
    from imageprocessor.core.variants import DEFAULT_VARIANTS, Dimensions, Variant, VariantSpec
    from imageprocessor.errors import (
        DimensionTooLargeError,
        EmptyFileError,
        FileTooLargeError,
        ImageProcessorError,
        InputError,
        InvalidImageError,
        InvalidVariantError,
        StorageError,
        TooManyPixelsError,
        TruncatedImageError,
        UnsupportedTypeError,
    )
    from imageprocessor.storage.location import open_storage

    __version__: str

__all__ = [
    "DEFAULT_VARIANTS",
    "DimensionTooLargeError",
    "Dimensions",
    "EmptyFileError",
    "FileTooLargeError",
    "ImageInfo",
    "ImageProcessorError",
    "InputError",
    "InvalidImageError",
    "InvalidVariantError",
    "Limits",
    "ProcessedImage",
    "StorageError",
    "TooManyPixelsError",
    "TruncatedImageError",
    "UnsupportedTypeError",
    "Variant",
    "VariantSpec",
    "dominant_color",
    "open_storage",
    "process",
    "strip_metadata",
    "validate",
]

_HOMES = {
    "DEFAULT_VARIANTS": "core.variants",
    "Dimensions": "core.variants",
    "ImageInfo": "core.validate",
    "Limits": "core.limits",
    "ProcessedImage": "core.pipeline",
    "Variant": "core.variants",
    "VariantSpec": "core.variants",
    "dominant_color": "core.pipeline",
    "open_storage": "storage.location",
    "process": "core.pipeline",
    "strip_metadata": "core.metadata",
    "validate": "core.validate",
}


if not TYPE_CHECKING:  # else type checkers would believe in every name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = import_module("importlib.metadata").version("imageprocessor")
        elif name in __all__:
            value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
