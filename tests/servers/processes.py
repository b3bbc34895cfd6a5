"""Starting processes in tests and waiting for conditions."""

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
    """Run *command* in its own session; when the context ends, send it the signal *stop*.

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
    """Wait until *what* returns a true value; the default is long enough for a slow machine."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"the condition was not met within {seconds} s"
        time.sleep(0.03)
