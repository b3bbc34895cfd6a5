"""Metadata taken out of a file that lies on disk.

"ours" without decoding it, "pillow" by decoding and encoding it.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from answering import answer
from PIL import Image

from imageprocessor import strip_metadata


def encode_again(path: Path) -> bytes:
    """Return the same picture without its metadata as Pillow makes it, and a little worse."""
    file = BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=90)
    return file.getvalue()


strip = {"ours": strip_metadata, "pillow": encode_again}[sys.argv[1]]
path, times = Path(sys.argv[2]), int(sys.argv[3])
answer(lambda: sum(len(strip(path)) for _ in range(times)))
