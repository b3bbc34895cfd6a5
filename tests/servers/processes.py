"""Processes that tests start, and conditions that they wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

STOP_SECONDS = 30


@contextmanager
def run_process(
    command: Sequence[str], log: Path, *, stop: int = signal.SIGKILL, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* in a session of its own until the context ends, which sends *stop*.

    Its output goes to the file *log*.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        for number in (stop, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)


def wait_for(what: Callable[[], object], seconds: float = 180) -> None:
    """Wait until *what* returns something true: long enough for a slow machine."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"it did not come true in {seconds} s"
        time.sleep(0.03)
