"""Metadata taken out of a 2 MB JPEG without decoding it, against decoding and encoding it again with Pillow."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.photo import encode_photo
from imageprocessor import strip_metadata

MORE = 5  #: rounds for each that is asked for: one takes a tenth of a second


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the row of the lossless strip; both read a file and return bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(encode_photo())
        contenders = {"ours": partial(seconds, strip_metadata, path), "Pillow": partial(seconds, encode_again, path)}
        costs = interleave(contenders, MORE * rounds)
    row = compare(
        "lossless strip of a 2 MB JPEG", "s", costs["ours"], "Pillow: decode, encode", costs["Pillow"], at_most=0.02
    )
    return [row]


def encode_again(path: Path) -> bytes:
    """Return the same picture without its metadata as Pillow makes it, and a little worse."""
    file = BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=90)
    return file.getvalue()


def seconds(function: Callable[[Path], bytes], path: Path) -> float:
    """Return the CPU seconds that the call takes."""
    started = time.process_time()
    function(path)
    return time.process_time() - started
