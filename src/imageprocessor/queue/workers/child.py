"""The start of a worker process: a module that loads quickly, so that the rest loads paused."""

from __future__ import annotations

from multiprocessing.connection import Connection

from imageprocessor.collector import collector_paused
from imageprocessor.settings import Settings


def start(pipe: Connection, settings: Settings, supervisor_id: str) -> None:
    """Load what a job needs, then run jobs; see `workers.worker.work`."""
    with collector_paused():
        from imageprocessor.queue.workers.worker import work  # noqa: PLC0415 - while paused

    work(pipe, settings, supervisor_id)
