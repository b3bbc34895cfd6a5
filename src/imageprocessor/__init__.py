"""Turns an untrusted upload into clean, upright, colour-correct, metadata-free web images.

    import imageprocessor as ip

    info   = ip.validate(data)         # ImageInfo(format, mime_type, width, height, …)
    clean  = ip.strip_metadata(data)   # the same file without its metadata; pixels untouched
    color  = ip.dominant_color(data)   # "#3A5F8C"
    result = ip.process(data)          # result.variants["thumbnail"].data: bytes of a WebP file
    image  = ip.transform(data, "w_400,h_300,fit_cover,blur_2")  # image.data, .width, .height
    store  = ip.open_storage("local:///var/lib/images")
    html   = ip.picture_html(result_json, alt="A cat")  # <img> or <picture> with srcset

``data`` is bytes, a path or a binary file object. All errors that this package raises deliberately
derive from ``ImageProcessorError``.

Each name is imported on first use, because importing all of them, with the decoders and colour
management, takes 60 ms.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names in _HOMES, in a form that type checkers understand
    from imageprocessor.core.geometry import Dimensions as Dimensions
    from imageprocessor.core.limits import Limits as Limits
    from imageprocessor.core.metadata import strip_metadata as strip_metadata
    from imageprocessor.core.picture_html import picture_html as picture_html
    from imageprocessor.core.pipeline import ProcessedImage as ProcessedImage
    from imageprocessor.core.pipeline import TransformedImage as TransformedImage
    from imageprocessor.core.pipeline import dominant_color as dominant_color
    from imageprocessor.core.pipeline import process as process
    from imageprocessor.core.pipeline import transform as transform
    from imageprocessor.core.transformations.grammar import Transformation as Transformation
    from imageprocessor.core.validate import ImageInfo as ImageInfo
    from imageprocessor.core.validate import validate as validate
    from imageprocessor.core.variants import DEFAULT_VARIANTS as DEFAULT_VARIANTS
    from imageprocessor.core.variants import Variant as Variant
    from imageprocessor.core.variants import VariantSpec as VariantSpec
    from imageprocessor.errors import AnimationTooLongError as AnimationTooLongError
    from imageprocessor.errors import DimensionTooLargeError as DimensionTooLargeError
    from imageprocessor.errors import EmptyFileError as EmptyFileError
    from imageprocessor.errors import FileTooLargeError as FileTooLargeError
    from imageprocessor.errors import ImageProcessorError as ImageProcessorError
    from imageprocessor.errors import InputError as InputError
    from imageprocessor.errors import InvalidImageError as InvalidImageError
    from imageprocessor.errors import InvalidTransformationError as InvalidTransformationError
    from imageprocessor.errors import InvalidVariantError as InvalidVariantError
    from imageprocessor.errors import StorageError as StorageError
    from imageprocessor.errors import StripUnsupportedError as StripUnsupportedError
    from imageprocessor.errors import TooManyPixelsError as TooManyPixelsError
    from imageprocessor.errors import TruncatedImageError as TruncatedImageError
    from imageprocessor.errors import UnsupportedTypeError as UnsupportedTypeError
    from imageprocessor.storage.location import open_storage as open_storage

    __version__: str

_MODULES = {
    "core.geometry": "Dimensions",
    "core.limits": "Limits",
    "core.metadata": "strip_metadata",
    "core.picture_html": "picture_html",
    "core.pipeline": "ProcessedImage TransformedImage dominant_color process transform",
    "core.transformations.grammar": "Transformation",
    "core.validate": "ImageInfo validate",
    "core.variants": "DEFAULT_VARIANTS Variant VariantSpec",
    "errors": (
        "AnimationTooLongError DimensionTooLargeError EmptyFileError FileTooLargeError"
        " ImageProcessorError InputError InvalidImageError InvalidTransformationError"
        " InvalidVariantError StorageError StripUnsupportedError TooManyPixelsError"
        " TruncatedImageError UnsupportedTypeError"
    ),
    "storage.location": "open_storage",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = import_module("importlib.metadata").version("imageprocessor")
        elif name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
