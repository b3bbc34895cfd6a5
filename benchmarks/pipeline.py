"""Whole jobs, one at a time.

A 12-megapixel JPEG becomes the four default sizes; compared with the bare codecs and the peers.
`python -m benchmarks.pipeline PHOTO…` compares your own photos with sharp.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.peers import Cost, find_obstacle, node, python, script, start
from benchmarks.photo import encode_noisy_photo, encode_photo
from benchmarks.report import format_table
from imageprocessor import DEFAULT_VARIANTS, Dimensions, validate
from imageprocessor.queue.process_memory import LARGE_PAGES

OURS, OURS_IN_ONE_THREAD = "ours", "ours, in one thread"
SHARP = "sharp, its defaults"
BARE = "bare codecs, same effort, in one thread"
AVIF_WORK = "JPEG → 1200 px AVIF at equal SSIM"
WORK, NOISY_WORK = "12 MP JPEG → 4 WebP", "12 MP JPEG with noise → 4 WebP"
#: The highest ratio allowed, by work, reference and kind of cost.
BUDGETS = {
    (WORK, SHARP, "cpu_seconds"): 0.50,
    (WORK, SHARP, "wall_seconds"): 0.45,
    (WORK, BARE, "cpu_seconds"): 1.15,
    (NOISY_WORK, SHARP, "cpu_seconds"): 0.55,
    (AVIF_WORK, SHARP, "cpu_seconds"): 0.12,
}
#: Rounds run per round requested: one takes a few seconds, and less with the codecs alone.
ROUND_FACTOR, CODEC_ROUND_FACTOR, NOISY_ROUND_FACTOR = 5, 10, 3
UNITS = {"cpu_seconds": "s of CPU", "wall_seconds": "s", "bytes": "bytes"}


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the rows for whole jobs.

    CPU time decides how many jobs a machine can do, wall time how long one job takes.

    The codecs are measured separately, because that margin is narrow and needs many rounds: a round
    without the peers takes a sixth of the time.
    """
    with TemporaryDirectory() as folder:
        photo, noisy = Path(folder) / "photo.jpg", Path(folder) / "noisy.jpg"
        photo.write_bytes(encode_photo())
        noisy.write_bytes(encode_noisy_photo())
        efforts = list_efforts(photo)
        codecs = list_codecs(photo, efforts)
        rows = run_contest(WORK, OURS_IN_ONE_THREAD, codecs, CODEC_ROUND_FACTOR * rounds)
        rows += run_contest(WORK, OURS, list_peers(photo, efforts), ROUND_FACTOR * rounds)
        return rows + run_contest(NOISY_WORK, OURS, list_rivals(noisy), NOISY_ROUND_FACTOR * rounds)


def main(paths: Sequence[str]) -> None:
    """Print how we compare with sharp on each photo, in 15 rounds."""
    rows: list[Figure | Skipped] = []
    for path in map(Path, paths):
        rows += run_contest(path.name, OURS, list_rivals(path), 15)
    sys.stdout.write(format_table(row.to_json() for row in rows) + "\n")


def list_efforts(photo: Path) -> str:
    """Return our effort for each width, as JSON."""
    info = validate(photo)
    source = Dimensions(info.width, info.height)
    return json.dumps(
        [spec.effort_for(spec.find_crop(source).size.width) for spec in DEFAULT_VARIANTS]
    )


def list_codecs(photo: Path, efforts: str) -> dict[str, Sequence[str]]:
    """Return the commands of the contenders that use one thread, by name."""
    return {
        BARE: script("bare.py", str(photo), efforts),
        OURS_IN_ONE_THREAD: python("ours.py", str(photo), "1"),
    }


def list_peers(photo: Path, efforts: str) -> dict[str, Sequence[str]]:
    """Return the commands of the contenders that may use every processor, by name."""
    return {
        **list_rivals(photo),
        "sharp, same effort": node("sharp.mjs", str(photo), efforts),
        "pyvips, its defaults": script("vips.py", str(photo)),
        "thumbor, its defaults": script("thumbor_server.py", str(photo)),
    }


def list_rivals(photo: Path) -> dict[str, Sequence[str]]:
    """Return the commands of us and of sharp, by name."""
    return {OURS: python("ours.py", str(photo)), SHARP: node("sharp.mjs", str(photo))}


def run_contest(
    work: str, mine: str, commands: dict[str, Sequence[str]], rounds: int
) -> list[Figure | Skipped]:
    """Measure the contenders that work here, in turns.

    Return the rows that compare *mine* with each, and skipped rows for those that do not work.
    """
    missing = {
        name: reason for name, command in commands.items() if (reason := find_fault(command))
    }
    costs = run_peers(
        {name: command for name, command in commands.items() if name not in missing}, rounds
    )
    rows: list[Figure | Skipped] = [Skipped(work, name, reason) for name, reason in missing.items()]
    return [*compare_costs(work, mine, costs), *rows]


def find_fault(command: Sequence[str]) -> str:
    """Run the program once; return why it does not work here, or "" if it does."""
    try:
        if not (obstacle := find_obstacle(command)):
            with start(command) as peer:
                peer.run()
    except RuntimeError as error:
        return str(error)
    return obstacle


def run_peers(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, list[Cost]]:
    """Start all contenders, run them in turns, and return the cost of each round."""
    with ExitStack() as stack:
        environs = {name: dict([LARGE_PAGES]) for name in (OURS, OURS_IN_ONE_THREAD)}
        peers = {
            name: stack.enter_context(start(command, environs.get(name)))
            for name, command in commands.items()
        }
        return interleave({name: peer.run for name, peer in peers.items()}, rounds)


def compare_costs(work: str, mine: str, costs: dict[str, list[Cost]]) -> Iterable[Figure]:
    """Yield a row for each other contender and kind of cost."""
    for name in [name for name in costs if name != mine]:
        for kind, unit in UNITS.items():
            ours, theirs = (
                [float(getattr(cost, kind)) for cost in costs[each]] for each in (mine, name)
            )
            budget = BUDGETS.get((work, name, kind))
            yield compare(f"{work}, {unit}", unit, ours, name, theirs, at_most=budget)


if __name__ == "__main__":
    main(sys.argv[1:])
