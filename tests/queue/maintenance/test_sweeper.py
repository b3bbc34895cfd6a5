from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.maintenance import sweeper
from imageprocessor.queue.service import Service
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import StoredObject
from tests.queue.conftest import Submit
from tests.servers.processes import wait_for


class VastStorage(MemoryStorage):
    """A storage whose listing lasts until the test sets *ended*."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.ended = threading.Event(), threading.Event()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        self.began.set()
        self.ended.wait()
        return super().list(prefix)


@contextmanager
def running_sweeper(service: Service) -> Iterator[None]:
    sweeping = sweeper.Sweeper(service)
    thread = threading.Thread(target=sweeping.run)
    thread.start()
    yield
    sweeping.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_long_listing_delays_neither_lost_jobs_nor_stop(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMAGES_EVERY_SECONDS", "SWEEP_EVERY_SECONDS", "END_WITHIN_SECONDS"):
        monkeypatch.setattr(sweeper, name, 0.01)
    storage = VastStorage()
    with running_sweeper(replace(service, storage=storage)):
        assert storage.began.wait(20)
        lost = submit_image()
        with service.database.write() as connection:
            assert job_store.claim(
                connection, lost.job_id, "w", clock.utc_now(), timedelta(seconds=-1)
            )
        wait_for(lambda: status_of(service, lost.job_id) is JobStatus.RETRYING, 20)
    storage.ended.set()


def test_restart_lists_no_images(service: Service) -> None:
    storage = VastStorage()
    with running_sweeper(replace(service, storage=storage)):
        assert not storage.began.wait(1)


def status_of(service: Service, job_id: str) -> JobStatus | None:
    with service.database.read() as connection:
        job = job_store.find_job(connection, job_id)
    return job.status if job else None
