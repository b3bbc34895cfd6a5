"""How a waiting job gets a worker's attention. Only a hint: a lost one costs a second, never a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imageprocessor.queue import presence


class Dispatcher(Protocol):
    """Tells workers of a job. The database has the job already; this must neither fail nor block."""

    def dispatch(self, job_id: str) -> None:
        """Wake whoever can run the job *job_id*."""

    def count_workers(self) -> int:
        """Return how many worker processes are there to take jobs."""


@dataclass(frozen=True, slots=True)
class EmbeddedDispatcher:
    """Wakes the supervisors on this host that share *directory*, whichever process they are in."""

    directory: Path

    def dispatch(self, job_id: str) -> None:  # noqa: ARG002 - a supervisor looks for itself what is due
        presence.wake_all(self.directory)

    def count_workers(self) -> int:
        return sum(presence.list_live(self.directory).values())
