from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.job_control import read_history, read_job
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.maintenance import old_events
from imageprocessor.queue.maintenance.old_events import delete_events, find_old_events
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit, with_settings

STEP = ("old_event_batches", find_old_events, delete_events)
SetClock = Callable[[timedelta], None]


def prune(
    service: Service, days: int, *, dry_run: bool = False, stores_statistics: bool = True
) -> int:
    """Run the step, after the one that stores the statistics; return how many batches it found."""
    if stores_statistics:
        store_snapshot(service.database)
    changed = with_settings(service, audit_retention_days=days)
    return sweep(changed, [STEP], dry_run=dry_run)[STEP[0]]


def count_events(service: Service, job: Job | None = None) -> int:
    query = select(func.count()).select_from(events)
    if job:
        query = query.where(events.c.job_id == job.job_id)
    with service.database.read() as connection:
        return connection.scalar(query) or 0


def test_events_older_than_the_retention_are_deleted_and_jobs_stay(
    service: Service, submit_image: Submit, done: Job, set_clock: SetClock
) -> None:
    set_clock(timedelta(days=10))
    later = submit_image()
    run_job(service, later.job_id, "worker")
    assert prune(service, 0) == 0, "0 keeps them for ever"
    assert prune(service, 11) == 0
    assert prune(service, 9, dry_run=True) == 1
    assert (count_events(service, done), count_events(service, later)) == (3, 3)

    assert prune(service, 9) == 1
    assert (count_events(service, done), count_events(service, later)) == (0, 3)
    assert prune(service, 9) == 0
    assert read_history(service, done.job_id) == (read_job(service, done.job_id, OPERATOR), [])


def test_events_of_an_open_job_stay_until_it_ends(
    service: Service, submit_image: Submit, done: Job, set_clock: SetClock
) -> None:
    waiting = submit_image()
    set_clock(timedelta(days=10))
    prune(service, 1)
    assert (count_events(service, done), count_events(service, waiting)) == (0, 1)
    run_job(service, waiting.job_id, "worker")
    prune(service, 1)
    assert count_events(service, waiting) == 2, "those of the last day"


def test_events_that_the_statistics_lack_stay(
    service: Service, done: Job, set_clock: SetClock
) -> None:
    set_clock(timedelta(days=10))
    assert prune(service, 1, stores_statistics=False) == 0, "the snapshot is from the start"
    assert prune(service, 1) == 1
    assert count_events(service) == 0


def test_batches_are_small_and_one_sweep_takes_a_limited_time(
    service: Service,
    submit_image: Submit,
    set_clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next sweep continues, even between events of the same time."""
    for _ in range(5):
        run_job(service, submit_image().job_id, "worker")
    with service.database.write() as connection:
        same = connection.scalar(select(func.max(events.c.created_at)))
        connection.execute(
            events.update().where(events.c.event_type == "completed").values(created_at=same)
        )
    set_clock(timedelta(days=10))
    monkeypatch.setattr(old_events, "EVENTS_PER_BATCH", 4)
    monkeypatch.setattr(old_events, "SECONDS_PER_SWEEP", 0.0)
    assert prune(service, 1) == 1
    assert count_events(service) == 11
    monkeypatch.setattr(old_events, "SECONDS_PER_SWEEP", 60.0)
    assert prune(service, 1) == 2, "the last batch has the events of one time"
    assert count_events(service) == 0
