"""Waking workers for waiting jobs. A wake-up is a hint: a lost one costs seconds, never a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imageprocessor.queue.dispatch import presence
from imageprocessor.settings import Settings


class Dispatcher(Protocol):
    """Wakes workers for a job that is already in the database. It must neither fail nor block."""

    def dispatch(self, job_id: str) -> None:
        """Wake the workers that can run the job *job_id*."""

    def count_workers(self) -> int:
        """Return how many worker processes can take jobs."""

    def count_redispatchable(self) -> int:
        """Return how many jobs may be dispatched again, in case their wake-up was lost."""

    def check(self) -> None:
        """Raise BrokerUnavailableError if wake-ups do not reach the workers."""


@dataclass(frozen=True, slots=True)
class EmbeddedDispatcher:
    """Wakes the supervisors on this host that share *directory*, in any process."""

    directory: Path

    def dispatch(self, job_id: str) -> None:  # noqa: ARG002 - supervisors look up what is due
        presence.wake_all(self.directory)

    def count_workers(self) -> int:
        return sum(presence.list_live(self.directory).values())

    def count_redispatchable(self) -> int:
        return 0  # supervisors look for due jobs every second

    def check(self) -> None:
        """Do nothing: supervisors find due jobs without wake-ups, too."""


def workers_directory(settings: Settings) -> Path:
    """Return the directory in which this host's supervisors announce themselves."""
    return settings.data_dir / "workers"


@contextmanager
def open_dispatcher(settings: Settings, database_identity: str) -> Iterator[Dispatcher]:
    """Open the dispatcher that QUEUE_BACKEND selects.

    *database_identity* identifies a SQLite file; it is empty for a database that hosts can share.

    Raises:
        MissingExtraError: Celery is not installed.
        SettingsError: The broker already serves another SQLite file.
    """
    if settings.queue_backend == "embedded":
        yield EmbeddedDispatcher(workers_directory(settings))
        return
    from imageprocessor.queue.dispatch.broker import open_broker  # noqa: PLC0415 - an extra
    from imageprocessor.queue.dispatch.celery_client import make_publish  # noqa: PLC0415 - an extra
    from imageprocessor.queue.dispatch.publisher import Publisher  # noqa: PLC0415 - needs the other two

    with (
        open_broker(settings, database_identity) as broker,
        Publisher(make_publish(settings), broker) as publisher,
    ):
        yield publisher
