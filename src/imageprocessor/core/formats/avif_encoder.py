"""Writing AVIF files."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from imageprocessor.core.memory import require_memory
from imageprocessor.errors import InvalidVariantError

if TYPE_CHECKING:
    from PIL import Image

    from imageprocessor.core.formats.encoding import Encoding

QUALITY = 60
"""The quality if none is requested: a photo looks like WebP of 75, with a tenth fewer bytes."""

MAX_PIXELS = 4_200_000
"""Larger files are not made, because the encoder takes so much memory."""

_BYTES_PER_PIXEL = 29
"""The encoder's memory for an RGBA image of ``MAX_PIXELS``; for RGB it is 25."""

_OTHER_BYTES = 16 << 20
_SPEEDS = (9, 9, 8, 8, 8, 6, 6)
"""libavif's speed for each effort: 6 takes twice as long as 8, and 9 makes a tenth more bytes."""


def encode(image: Image.Image, encoding: Encoding) -> bytes:
    """Return an RGB or RGBA image of at most ``MAX_PIXELS`` as a lossy AVIF file.

    One thread: several would need memory for each, and the variants are encoded side by side.

    Raises:
        InvalidVariantError: This build of Pillow has no AVIF encoder.
        MemoryError: The encoder needs more memory than is available.
    """
    from PIL import AvifImagePlugin  # noqa: PLC0415 - not at import: validating needs no Pillow

    if not AvifImagePlugin.SUPPORTED:
        raise InvalidVariantError(
            "This build of Pillow cannot encode AVIF. Install pillow>=13, or use another format."
        )
    pixels = image.width * image.height
    require_memory(pixels * _BYTES_PER_PIXEL + _OTHER_BYTES, "to encode an AVIF")
    file = BytesIO()
    image.save(
        file,
        "AVIF",
        quality=encoding.quality,
        speed=_SPEEDS[encoding.effort],
        max_threads=1,
        icc_profile=None,  # otherwise Pillow would copy that of ``image.info``
    )
    return file.getvalue()
