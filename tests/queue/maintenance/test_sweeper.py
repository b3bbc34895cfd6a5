from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import maintenance
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.maintenance import sweeper
from imageprocessor.queue.maintenance.leases import read_progress, set_progress
from imageprocessor.queue.maintenance.sweep import IMAGE_STEP
from imageprocessor.queue.service import Service, open_service
from imageprocessor.storage.keys import variant_key
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import StoredObject
from tests.queue.conftest import Submit
from tests.servers.processes import wait_for


class VastStorage(MemoryStorage):
    """A storage whose listing lasts until the test sets *ended*."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.ended = threading.Event(), threading.Event()

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        self.began.set()
        self.ended.wait()
        return super().list(prefix, start_after)


@contextmanager
def running_sweeper(service: Service) -> Iterator[None]:
    sweeping = sweeper.Sweeper(service)
    thread = threading.Thread(target=sweeping.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sweeping.stop()
        thread.join(20)
    assert not thread.is_alive()


def test_long_listing_delays_neither_lost_jobs_nor_stop(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE_EVERY_SECONDS", "SWEEP_EVERY_SECONDS", "END_WITHIN_SECONDS"):
        monkeypatch.setattr(sweeper, name, 0.01)
    with service.database.write() as connection:
        set_progress(connection, "orphaned_images", clock.utc_now(), "")
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
    wait_for(lambda: "listing sweeper" not in {thread.name for thread in threading.enumerate()}, 20)


def test_restart_lists_no_images(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE_EVERY_SECONDS", "SWEEP_EVERY_SECONDS"):
        monkeypatch.setattr(sweeper, name, 0.01)
    storage = VastStorage()
    with running_sweeper(replace(service, storage=storage)):
        assert not storage.began.wait(1)


def test_stop_releases_the_lease(service: Service) -> None:
    def read_holder() -> str | None:
        with service.database.read() as connection:
            return connection.scalar(select(maintenance.c.holder))

    with running_sweeper(service):
        wait_for(read_holder, 20)
    assert read_holder() is None


def test_listing_resumes_where_the_process_before_ended(
    service: Service, set_clock: Callable[[timedelta], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is listed by a new process; the objects are deleted behind it."""
    monkeypatch.setattr(sweeper, "PAGE_OBJECTS", 10)
    keys = [variant_key("photos", "medium", str(uuid.UUID(int=number))) for number in range(25)]
    for key in keys:
        service.storage.put(key, b"nobody's")
    left = [25]
    hours = [0, 23, 25, 25, 25, 25, 48, 50]
    for hour in hours:
        set_clock(timedelta(hours=hour))
        with open_service(service.settings) as restarted:
            sweep_images(restarted)
            left.append(len(list(restarted.storage.list())))
        if hour == 25 and left[-1] == 0:
            service.storage.put(keys[0], b"stored again, before the position")
    assert left == [25, 25, 25, 15, 5, 0, 1, 1, 0]


def test_old_copy_of_the_database_removes_nothing_for_a_day(
    service: Service, set_clock: Callable[[timedelta], None]
) -> None:
    sweep_images(service)
    service.storage.put(variant_key("photos", "medium", str(uuid.uuid4())), b"newer than the copy")
    for hours, left in ((49, 1), (72, 1), (74, 0)):
        set_clock(timedelta(hours=hours))
        sweep_images(service)
        assert len(list(service.storage.list())) == left


def test_clock_that_was_set_back_delays_a_listing_by_one_interval(
    service: Service, set_clock: Callable[[timedelta], None]
) -> None:
    set_clock(timedelta(days=300))
    sweep_images(service)
    for days, due_in in ((0, 1), (0.5, 1), (1, 2)):
        set_clock(timedelta(days=days))
        sweep_images(service)
        with service.database.read() as connection:
            due_at, _ = read_progress(connection, "orphaned_images")
        assert due_at
        assert abs(due_at - datetime.now(UTC) - timedelta(days=due_in)) < timedelta(minutes=5)


def sweep_images(service: Service) -> None:
    sweeper.sweep_page(service, IMAGE_STEP, service.storage, sweeper.IMAGES_EVERY)


def status_of(service: Service, job_id: str) -> JobStatus | None:
    with service.database.read() as connection:
        job = job_store.find_job(connection, job_id)
    return job.status if job else None
