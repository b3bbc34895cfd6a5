"""Programs that do the same job: ours, the bare codecs, and well-known alternatives.

Each is a process that does the job once per line of input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
#: installs the packages that the file itself lists
SCRIPT = ("uv", "run", "--quiet", "--no-project", "--script")


@dataclass(frozen=True, slots=True)
class Cost:
    """The time that one job took, over all threads, and the bytes that it produced."""

    cpu_seconds: float
    wall_seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A running program that does its job once per line of input."""

    process: subprocess.Popen[str]

    def run(self) -> Cost:
        """Run the job once.

        Raises:
            RuntimeError: The program has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: there will be no answer
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the program ended with code {self.process.wait()}")
        return Cost(**json.loads(answer))


def python(program: str, *arguments: str) -> Sequence[str]:
    """Return the command that runs *program* in the environment of the benchmark."""
    return sys.executable, str(FOLDER / program), *arguments


def script(program: str, *arguments: str) -> Sequence[str]:
    """Return the command that runs *program* in an environment of its own."""
    return *SCRIPT, str(FOLDER / program), *arguments


def node(program: str, *arguments: str) -> Sequence[str]:
    """Return the command that runs *program*, which uses sharp."""
    return "node", str(FOLDER / program), *arguments


def find_obstacle(command: Sequence[str]) -> str:
    """Return why *command* cannot be run here; "" if it can."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    if (
        command[0] == "node"
        and not Path(os.environ.get("SHARP_DIR", ""), "node_modules", "sharp").is_dir()
    ):
        return (
            "SHARP_DIR is not a folder with node_modules/sharp: npm install --prefix FOLDER sharp"
        )
    return ""


@contextmanager
def start(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Peer]:
    """Run *command* until the end of the context."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()
