"""Which supervisors of embedded workers are alive on this host, and how to wake them.

Each keeps two files in a shared directory: ``<id>.lock``, locked for as long as its process lives
(the kernel drops the lock however the process ends), and ``<id>.wake``, a FIFO: a byte in it means
"look for jobs".
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

#: after a change: within one tick of the file system's clock there may be another
SETTLED_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Presence:
    """A supervisor's own sign of life."""

    supervisor_id: str
    wake_descriptor: int  #: readable when somebody has a job; read it empty with :meth:`drain`

    def wake(self) -> None:
        """Wake this supervisor itself."""
        with suppress(BlockingIOError):
            os.write(self.wake_descriptor, b".")

    def drain(self) -> None:
        """Forget all wake-ups so far."""
        with suppress(BlockingIOError):
            while os.read(self.wake_descriptor, 4096):
                pass


@contextmanager
def announce(directory: Path, worker_count: int) -> Iterator[Presence]:
    """Be known in *directory* as a live supervisor of *worker_count* processes until the end of the context."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    supervisor_id = uuid.uuid4().hex
    lock, fifo = directory / f"{supervisor_id}.lock", directory / f"{supervisor_id}.wake"
    lock_descriptor = _create_locked(lock, worker_count)
    os.mkfifo(fifo, 0o600)
    wake_descriptor = os.open(
        fifo, os.O_RDWR | os.O_NONBLOCK
    )  # RDWR: a FIFO without writers would stay readable
    try:
        yield Presence(supervisor_id, wake_descriptor)
    finally:
        os.close(wake_descriptor)
        forget(directory, supervisor_id)
        os.close(lock_descriptor)


def wake_all(directory: Path) -> None:
    """Wake every supervisor in *directory*.

    Those that are gone or awake already are passed over.
    """
    with suppress(
        OSError
    ):  # none was ever there, or nobody may look: they look for themselves every second
        changed_ns = directory.stat().st_mtime_ns
        settled = time.time_ns() - changed_ns > SETTLED_NS
        for fifo in _recall_fifos(directory, changed_ns) if settled else _list_fifos(directory):
            _wake(fifo)


def list_live(directory: Path) -> dict[str, int]:
    """Return the worker count of each live supervisor by its id."""
    return {
        lock.stem: int(lock.read_text() or 0)
        for lock in directory.glob("*.lock")
        if _is_locked(lock)
    }


def list_dead(directory: Path) -> list[str]:
    """Return the ids of supervisors that ended without saying goodbye."""
    return [lock.stem for lock in directory.glob("*.lock") if not _is_locked(lock)]


def forget(directory: Path, supervisor_id: str) -> None:
    """Remove the files of a supervisor that is gone."""
    for ending in ("wake", "lock"):
        (directory / f"{supervisor_id}.{ending}").unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _recall_fifos(directory: Path, _changed_ns: int) -> list[Path]:
    """Return what is in *directory* since it changed last.

    Each upload waits for this, and listing takes five calls.
    """
    return _list_fifos(directory)


def _list_fifos(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.endswith(".wake")]


def _wake(fifo: Path) -> None:
    with suppress(OSError):  # no reader, removed meanwhile, or full: it is awake
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


def _create_locked(path: Path, worker_count: int) -> int:
    draft = path.with_suffix(
        ".draft"
    )  # renamed when locked: nobody may see it unlocked and think it dead
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, str(worker_count).encode())
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    draft.rename(path)
    return descriptor


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True  # it said goodbye just now: not ours to bury
    except BlockingIOError:
        return True
    return False
