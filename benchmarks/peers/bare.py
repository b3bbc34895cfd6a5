# /// script
# dependencies = ["imagecodecs>=2026.3", "pillow>=13"]
# ///
"""The unavoidable work: libjpeg-turbo decodes once, libwebp encodes resized images.

The second argument lists the efforts, one for each width.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from answering import QUALITY, WIDTHS, answer
from PIL import Image

data = Path(sys.argv[1]).read_bytes()
image = Image.open(BytesIO(data))
sizes = [
    (min(width, image.width), round(image.height * min(width, image.width) / image.width))
    for width in WIDTHS
]
ready = [np.asarray(image.resize(size, Image.Resampling.LANCZOS)) for size in sizes]
efforts = json.loads(sys.argv[2])


def run() -> int:
    """Decode, encode all sizes, and return the bytes produced."""
    imagecodecs.jpeg8_decode(data)
    pairs = zip(ready, efforts, strict=True)
    return sum(
        len(imagecodecs.webp_encode(each, QUALITY, lossless=False, method=effort))
        for each, effort in pairs
    )


answer(run)
