"""Removing the metadata of a 2 MB JPEG without decoding it.

Compared with decoding and re-encoding it in Pillow.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.peers import python, start
from benchmarks.photo import encode_photo

ROUND_FACTOR = 5  #: rounds run per round requested: one takes a second and a half
FILES = 10  #: per turn, because the first file finds the other contender's data in the CPU caches


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the row for the lossless strip.

    Both read a file and return bytes, each in a process of its own.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(encode_photo())
        commands = [
            python("strip.py", contender, str(path), str(FILES)) for contender in ("ours", "pillow")
        ]
        with start(commands[0]) as ours, start(commands[1]) as pillow:
            costs = interleave({"ours": ours.run, "pillow": pillow.run}, ROUND_FACTOR * rounds)
    seconds = {name: [cost.cpu_seconds / FILES for cost in each] for name, each in costs.items()}
    work, reference = "lossless strip of a 2 MB JPEG", "Pillow: decode, encode"
    return [compare(work, "s of CPU", seconds["ours"], reference, seconds["pillow"], at_most=0.02)]
