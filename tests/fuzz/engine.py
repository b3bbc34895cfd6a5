"""Running the fuzzers with Atheris, which is libFuzzer for Python."""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

MAX_SECONDS = 5  # for one input


def run(check: str, seeds: str = "make_seeds") -> None:
    """Search for bytes that make *check* in `targets` fail, with libFuzzer's arguments.

    *seeds* names the function of the module `seeds` that returns what to start with.
    """
    atheris = import_module("atheris")  # imported here, so that pytest does not need it
    with atheris.instrument_imports(include=["imageprocessor", "PIL"]):
        target = getattr(import_module("tests.fuzz.targets"), check)
    with tempfile.TemporaryDirectory() as folder:
        make = getattr(import_module("tests.fuzz.seeds"), seeds)
        for number, seed in enumerate(make()):
            Path(folder, str(number)).write_bytes(seed)
        options = [
            f"-timeout={MAX_SECONDS}",
            "-max_len=65536",
            "-rss_limit_mb=1024",
            *sys.argv[1:],
            folder,
        ]
        atheris.Setup([sys.argv[0], *options], target)
        atheris.Fuzz()
