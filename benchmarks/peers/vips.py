# /// script
# dependencies = ["pyvips[binary]>=3"]
# ///
"""libvips from Python.

`thumbnail`, its own idiom, which decodes for each size as small as that size allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyvips
from answering import QUALITY, WIDTHS, answer

data = Path(sys.argv[1]).read_bytes()


def run() -> int:
    """Make all sizes and return the bytes made."""
    pictures = [
        pyvips.Image.thumbnail_buffer(data, width, height=16383, size="down") for width in WIDTHS
    ]
    return sum(len(picture.webpsave_buffer(Q=QUALITY, strip=True)) for picture in pictures)


answer(run)
