"""Run the command line as a user does, in an empty folder."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from imageprocessor.cli import main
from imageprocessor.logs import configure_logs

Run = Callable[..., "Ran"]


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command: exit status and output."""

    status: object
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, made the current one.

    Log lines of jobs that the tests run are dropped; afterwards the log handlers are restored.
    """
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logs("console", "CRITICAL")
    yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command in this process."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["imageprocessor", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfdbinary.readouterr()
        return Ran(end.value.code, captured.out, captured.err.decode())

    return call


def run_python(program: str, *arguments: str) -> Ran:
    """Run *program* in a new interpreter with *arguments*."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode())
