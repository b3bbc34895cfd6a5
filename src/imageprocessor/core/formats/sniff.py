"""Recognizing a file's format by its magic bytes, whatever its name or MIME type."""

from __future__ import annotations

from collections.abc import Collection
from typing import BinaryIO

import filetype

from imageprocessor.core.formats.boxes import read_brands
from imageprocessor.core.formats.registry import FORMATS, ImageFormat
from imageprocessor.errors import EmptyFileError, UnsupportedTypeError

_SIGNATURE_BYTES = 8192  # the most that filetype reads


def sniff(file: BinaryIO, mime_types: Collection[str]) -> ImageFormat:
    """Return the format of ``file`` by its first bytes, and rewind the file.

    Raises:
        EmptyFileError: The file has no bytes.
        UnsupportedTypeError: The file's format is not in *mime_types*.
    """
    file.seek(0)
    signature = file.read(_SIGNATURE_BYTES)
    file.seek(0)
    if not signature:
        raise EmptyFileError("The file is empty (0 bytes). Send the image itself.")
    image_format = _find_by_brand(read_brands(signature))
    kind = "of an unknown type"
    if image_format is None:
        found = filetype.guess_mime(signature)
        kind = found or kind
        image_format = _find_by_mime_type(found)
    if image_format is not None:
        if image_format.mime_type in mime_types:
            return image_format
        kind = image_format.mime_type
    accepted = ", ".join(sorted(mime_types))
    raise UnsupportedTypeError(f"The file is {kind}. Send one of {accepted}.")


def _find_by_brand(brands: list[bytes]) -> ImageFormat | None:
    """Return the format of the first brand that one has.

    The first brand is the major one. Many files only have a general one there, "mif1" or "msf1".
    """
    for brand in brands:
        for image_format in FORMATS.values():
            if brand in image_format.brands:
                return image_format
    return None


def _find_by_mime_type(mime_type: str | None) -> ImageFormat | None:
    for image_format in FORMATS.values():
        # By their brands, others are not what filetype takes them for.
        if mime_type in image_format.mime_types and not image_format.brands:
            return image_format
    return None
