"""Decoding HEIC in one thread. This module needs the extra ``heic``."""

from __future__ import annotations

from typing import IO

import pillow_heif
from PIL import Image

# pillow_heif has no other way to say so. A worker decodes one image, and has one processor.
pillow_heif.options.DECODE_THREADS = 1
pillow_heif.options.THUMBNAILS = False  # one would be decoded instead of the image


class HeicFile(pillow_heif.HeifImageFile):
    """An HEIC, decoded in the calling thread."""

    format = "HEIC"


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:  # noqa: ARG001
    pillow_heif.from_pillow(image).save(file)


# For ``doctor``, which decodes a new image of each format. Nothing is registered that would change
# how other programs open images.
Image.register_save(HeicFile.format, _save)
