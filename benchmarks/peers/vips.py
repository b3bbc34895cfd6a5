# /// script
# dependencies = ["pyvips[binary]>=3"]
# ///
"""libvips from Python.

Uses its idiom `thumbnail`, which decodes once per size, at the smallest scale that allows it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyvips
from answering import QUALITY, WIDTHS, answer

data = Path(sys.argv[1]).read_bytes()


def run() -> int:
    """Make all sizes and return the bytes produced."""
    images = [
        pyvips.Image.thumbnail_buffer(data, width, height=16383, size="down") for width in WIDTHS
    ]
    return sum(len(image.webpsave_buffer(Q=QUALITY, strip=True)) for image in images)


answer(run)
