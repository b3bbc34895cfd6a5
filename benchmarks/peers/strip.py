"""Removing the metadata of a file on disk.

"ours" does not decode it; "pillow" decodes and re-encodes it.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from answering import answer
from PIL import Image

from imageprocessor import strip_metadata


def encode_again(path: Path) -> bytes:
    """Return the image without its metadata, re-encoded by Pillow with a small loss."""
    file = BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=90)
    return file.getvalue()


strip = {"ours": strip_metadata, "pillow": encode_again}[sys.argv[1]]
path, times = Path(sys.argv[2]), int(sys.argv[3])
answer(lambda: sum(len(strip(path)) for _ in range(times)))
