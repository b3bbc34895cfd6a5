"""What the fuzzers start from, and how they are run: by Atheris, which is libFuzzer for Python."""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

MAX_SECONDS = 5  # what one input may take


def run(check: str) -> None:
    """Look for bytes that make *check* of `targets` fail; the arguments are libFuzzer's."""
    atheris = import_module("atheris")  # here, so that pytest can import this module without it
    with atheris.instrument_imports(include=["imageprocessor", "PIL"]):
        target = getattr(import_module("tests.fuzz.targets"), check)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(import_module("tests.fuzz.seeds").make_seeds()):
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
