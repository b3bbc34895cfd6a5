"""Startup times of the import, the help, and the service until it is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.figures import Figure, Skipped, compare, interleave
from tests.servers import find_free_port
from tests.servers.processes import run_process, wait_for

IMPORT = "import imageprocessor"
FIRST_USE = "from imageprocessor import process"  #: loads the codecs, Pillow's and ours
HELP = "imageprocessor --help"
SERVE = "imageprocessor serve, in an empty folder, until ready"
PROGRAM = """
import PIL.Image, filetype, time
began = time.perf_counter()
{statement}
print(time.perf_counter() - began)
"""


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the ratio of each startup time to its limit on an otherwise idle machine."""
    waits: dict[str, Callable[[], float]] = {
        IMPORT: partial(time_import, IMPORT),
        HELP: time_help,
        SERVE: time_serve,
        FIRST_USE: partial(time_import, FIRST_USE),
    }
    seconds = interleave(waits, rounds)
    budgets = (IMPORT, "40 ms", 0.040), (HELP, "300 ms", 0.300), (SERVE, "2 s", 2.0)
    rows: list[Figure | Skipped] = []
    for name, described, limit in budgets:
        rows.append(compare(name, "s", seconds[name], described, [limit] * rounds, at_most=1))
    rows.append(compare(FIRST_USE, "s", seconds[FIRST_USE], "the same 40 ms", [0.040] * rounds))
    return rows


def time_import(statement: str) -> float:
    """Return the seconds that an import takes once Pillow and filetype are loaded."""
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return float(ran.stdout)


def time_help() -> float:
    """Return the seconds that `imageprocessor --help` takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "imageprocessor", "--help"], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


def time_serve() -> float:
    """Return the seconds from starting `imageprocessor serve` to the first 200 of `/readyz`."""
    port = find_free_port()
    with TemporaryDirectory() as name:
        command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
        environ = {**os.environ, "DATA_DIR": name}
        began = time.perf_counter()
        with run_process(
            command, Path(name, "serve.log"), stop=signal.SIGTERM, env=environ, cwd=name
        ):
            wait_for(lambda: is_ready(port))
            return time.perf_counter() - began


def is_ready(port: int) -> bool:
    """Return whether the service answers with 200."""
    with suppress(URLError), urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
        return bool(answer.status == 200)
    return False
