"""Metadata taken out of a 2 MB JPEG without decoding it.

Against decoding and encoding it again with Pillow.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.peers import python, start
from benchmarks.photo import encode_photo

MORE = 5  #: rounds for each that is asked for: one takes a second and a half
FILES = 10  #: of a turn: the first finds the processor's caches full of what the other one left


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the row of the lossless strip.

    Both read a file and return bytes, each in a process of its own.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(encode_photo())
        commands = [
            python("strip.py", contender, str(path), str(FILES)) for contender in ("ours", "pillow")
        ]
        with start(commands[0]) as ours, start(commands[1]) as pillow:
            costs = interleave({"ours": ours.run, "pillow": pillow.run}, MORE * rounds)
    seconds = {name: [cost.cpu_seconds / FILES for cost in each] for name, each in costs.items()}
    work, reference = "lossless strip of a 2 MB JPEG", "Pillow: decode, encode"
    return [compare(work, "s of CPU", seconds["ours"], reference, seconds["pillow"], at_most=0.02)]
