"""Listing and waking the live supervisors of embedded workers on this host.

Each keeps two files in a shared directory: ``<id>.lock``, locked for as long as its process lives
(the kernel drops the lock however the process ends), and ``<id>.wake``, a FIFO: a byte in it means
"look for jobs".
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Presence:
    """An announced supervisor: its id, and the FIFO that wakes it."""

    supervisor_id: str
    wake_descriptor: int  #: readable after a wake-up; :meth:`drain` empties it

    def wake(self) -> None:
        """Wake this supervisor itself."""
        with suppress(BlockingIOError):
            os.write(self.wake_descriptor, b".")

    def drain(self) -> None:
        """Discard all wake-ups so far."""
        with suppress(BlockingIOError):
            while os.read(self.wake_descriptor, 4096):
                pass


@contextmanager
def announce(directory: Path, worker_count: int) -> Iterator[Presence]:
    """Announce a live supervisor of *worker_count* processes until the end of the context."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    supervisor_id = uuid.uuid4().hex

    # Renamed once it is locked: an unlocked ``.lock`` file means that its supervisor is dead.
    draft = directory / f"{supervisor_id}.draft"
    lock_descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(lock_descriptor, str(worker_count).encode())
    fcntl.flock(lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    draft.rename(directory / f"{supervisor_id}.lock")

    fifo = directory / f"{supervisor_id}.wake"
    os.mkfifo(fifo, 0o600)
    # Opened for writing, too: a FIFO stays readable after its last writer has closed it.
    wake_descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield Presence(supervisor_id, wake_descriptor)
    finally:
        os.close(wake_descriptor)
        forget(directory, supervisor_id)
        os.close(lock_descriptor)


def wake(directory: Path, supervisor_id: str) -> None:
    """Wake one supervisor in *directory*, if it is there."""
    _wake(directory / f"{supervisor_id}.wake")


def wake_all(directory: Path) -> None:
    """Wake every supervisor in *directory*; those that are gone or awake already are skipped."""
    # The directory is missing or not readable: supervisors look for jobs every second anyway.
    with suppress(OSError):
        for path in directory.iterdir():
            if path.name.endswith(".wake"):
                _wake(path)


def list_live(directory: Path) -> dict[str, int]:
    """Return the worker count of each live supervisor by its id."""
    live: dict[str, int] = {}
    for lock in directory.glob("*.lock"):
        if _is_locked(lock):
            live[lock.stem] = int(lock.read_text() or 0)
    return live


def list_dead(directory: Path) -> list[str]:
    """Return the ids of supervisors that ended without removing their files."""
    return [lock.stem for lock in directory.glob("*.lock") if not _is_locked(lock)]


def forget(directory: Path, supervisor_id: str) -> None:
    """Remove the files of a supervisor that is gone."""
    for ending in ("wake", "lock"):
        (directory / f"{supervisor_id}.{ending}").unlink(missing_ok=True)


def _wake(fifo: Path) -> None:
    with suppress(OSError):  # no reader, removed meanwhile, or full (so awake)
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True  # its supervisor has just ended and removed it
    except BlockingIOError:
        return True
    return False
