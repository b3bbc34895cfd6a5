from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Connection, func, insert, select, update

from imageprocessor.errors import (
    ImageNotFoundError,
    JobNotFoundError,
    JobNotRetryableError,
    StorageUnavailableError,
)
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import (
    IS_WAITING,
    image_upload_events,
    job_statistics,
    processing_jobs,
)
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.job_control import retry_job
from imageprocessor.queue.job_search import JobFilter, retry_matching
from imageprocessor.queue.jobs import figures, job_store, outbox
from imageprocessor.queue.jobs.figures import (
    STATUS_AFTER,
    ensure_snapshot,
    forget_snapshot,
    read_figures,
    store_snapshot,
)
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.pause import pause, resume
from imageprocessor.queue.service import Service
from tests.images import encode, photo
from tests.queue.conftest import Submit

SetClock = Callable[[timedelta], None]

ON_POSTGRES = pytest.mark.parametrize("settings", ["postgres"], indirect=True)
REFUSALS = (ImageNotFoundError, JobNotFoundError, JobNotRetryableError)
THREADS, ROUNDS, JOBS_PER_ROUND = 4, 2, 9


def read_counts(service: Service) -> dict[str, int]:
    jobs = read_figures(service.database).jobs
    return {status.value: jobs[status] for status in JobStatus}


def count_jobs(service: Service) -> dict[str, int]:
    with service.database.read() as connection:
        return job_store.count_by_status(connection)


def read_position(service: Service) -> int:
    with service.database.read() as connection:
        return int(connection.execute(select(job_statistics.c.position)).scalar_one())


@contextmanager
def failing() -> Iterator[None]:
    raise StorageUnavailableError("The disk is away.")
    yield


@contextmanager
def deleting(service: Service, job: Job) -> Iterator[None]:
    """Delete the image of a job that is being processed."""
    delete_image(service, job.image_id, OPERATOR)
    yield


def claim(connection: Connection, job: Job) -> Job | None:
    now = clock.utc_now()
    claimed = job_store.claim(connection, job.job_id, "worker", now, timedelta(minutes=1))
    if claimed:
        before = job_store.status_before_claim(claimed)
        started = EventType.PROCESSING_STARTED
        outbox.add_event(connection, started, claimed, now, previous_status=before)
    return claimed


def release(service: Service, job: Job) -> None:
    """Claim a job, and release it as a supervisor does when it is stopped."""
    with service.database.write() as connection:
        claimed = claim(connection, job)
    if claimed is None:
        return
    now, processing = clock.utc_now(), JobStatus.PROCESSING
    with service.database.write() as connection:
        released = job_store.release(connection, claimed)
        if released and job_store.find_job(connection, job.job_id):
            event = EventType.RELEASED
            outbox.add_event(connection, event, job, now, previous_status=processing)


def make_retries_due(service: Service) -> None:
    """Make each retry due now, and the last one."""
    retries = update(processing_jobs).where(IS_WAITING, processing_jobs.c.next_attempt_at > "")
    due = {"next_attempt_at": clock.to_text(clock.utc_now()), "max_retries": 1}
    with service.database.write() as connection:
        connection.execute(retries.values(due))


def pause_briefly(service: Service) -> None:
    pause(service, "root")
    resume(service, "root")


def test_figures_equal_a_count_whatever_happens_to_jobs(
    service: Service, submit_image: Submit
) -> None:
    """Several threads do anything to any job, while others read and store the figures."""
    data = encode(photo(8, 8), "JPEG")
    jobs = [submit_image(data)]
    for _ in range(2):
        run_job(service, jobs[0].job_id, "worker", failing)
        make_retries_due(service)
    retry_job(service, jobs[0].job_id)
    is_quiet = threading.Event()

    def act(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(JOBS_PER_ROUND):
            jobs.append(submit_image(data, user_id=str(seed)))
            for _ in range(3):
                job = choose.choice(jobs[-8:])
                deletes = partial(deleting, service, job)
                actions: list[Callable[[], object]] = [
                    partial(run_job, service, job.job_id, "worker"),
                    partial(run_job, service, job.job_id, "worker", failing),
                    partial(run_job, service, job.job_id, "worker", deletes),
                    partial(release, service, job),
                    partial(delete_image, service, job.image_id, OPERATOR),
                    partial(retry_job, service, job.job_id),
                    partial(make_retries_due, service),
                    partial(retry_matching, service, JobFilter(user_id=str(seed)), "root"),
                    partial(pause_briefly, service),
                ]
                with suppress(*REFUSALS):
                    choose.choices(actions, weights=[4, 6, 1, 2, 1, 4, 4, 1, 1])[0]()

    def watch() -> None:
        while not is_quiet.wait(0.1):
            store_snapshot(service.database)
            read_figures(service.database)

    for number in range(ROUNDS):
        is_quiet.clear()
        with ThreadPoolExecutor(THREADS + 2) as pool:
            watchers = [pool.submit(watch) for _ in range(2)]
            try:
                list(pool.map(act, range(number * THREADS, (number + 1) * THREADS)))
            finally:
                is_quiet.set()
            for watcher in watchers:
                watcher.result()
        assert read_counts(service) == count_jobs(service)
        store_snapshot(service.database)
        assert read_counts(service) == count_jobs(service)

    with service.database.read() as connection:
        types = select(image_upload_events.c.event_type).distinct()
        happened = set(connection.scalars(types))
    assert happened >= {*STATUS_AFTER, EventType.PAUSED}, "everything has happened"
    with service.database.write() as connection:
        forget_snapshot(connection)
    folded = read_figures(service.database)
    completed = image_upload_events.c.event_type == EventType.COMPLETED
    totals = select(func.count(), func.sum(image_upload_events.c.duration_seconds)).where(completed)
    with service.database.read() as connection:
        counted, seconds = connection.execute(totals).one()
    assert folded.completed.total() == folded.timed.total() == counted
    assert sum(folded.seconds.values()) == pytest.approx(seconds)


@ON_POSTGRES
@pytest.mark.parametrize("counts_again", [True, False])
def test_transaction_that_commits_last_is_counted_once(
    service: Service, submit_image: Submit, *, counts_again: bool
) -> None:
    first, second = submit_image(), submit_image()
    with service.database.write() as slow:
        assert claim(slow, first)
        run_job(service, second.job_id, "worker")
        if counts_again:
            with service.database.write() as connection:
                forget_snapshot(connection)
        store_snapshot(service.database)
        during = read_counts(service)
        assert (during["pending"], during["completed"]) == (1, 1), "no request waits for `slow`"
    for _ in range(2):
        after = read_counts(service)
        assert (after["processing"], after["completed"], after["pending"]) == (1, 1, 0)
        store_snapshot(service.database)


@ON_POSTGRES
def test_figures_lag_behind_a_long_transaction_with_too_many_events_after_it(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MAX_UNSTORED", 5)
    first = submit_image()
    with service.database.write() as slow:
        assert claim(slow, first)
        for _ in range(9):
            submit_image()
        assert 5 <= read_counts(service)["pending"] <= 6
    assert read_counts(service)["pending"] == 9


def test_request_stores_many_events_itself_if_nothing_sweeps(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MAX_UNSTORED", 5)
    before = read_position(service)
    for _ in range(4):
        submit_image()
    assert read_counts(service)["pending"] == 4
    assert read_position(service) == before
    submit_image()
    assert read_counts(service)["pending"] == 5
    assert read_position(service) > before


def test_nothing_is_written_while_nothing_changes(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_snapshot(service.database)
    monkeypatch.delattr(figures, "_store")
    store_snapshot(service.database)
    delete_image(service, done.image_id, OPERATOR)
    with pytest.raises(NameError):
        store_snapshot(service.database)


def test_completions_are_forgotten_after_a_day(
    service: Service, done: Job, set_clock: SetClock
) -> None:
    for stored in (False, True):
        set_clock(timedelta())
        if stored:
            store_snapshot(service.database)
        set_clock(timedelta(hours=23, minutes=59))
        assert read_figures(service.database).completed.total() == 1
        set_clock(timedelta(hours=24, minutes=10))
        assert read_figures(service.database).completed.total() == 0
    assert read_counts(service)["completed"] == 1


def test_events_of_older_code_are_counted(service: Service, submit_image: Submit) -> None:
    jobs = [submit_image() for _ in range(3)]
    for job in jobs[:2]:
        run_job(service, job.job_id, "worker")
    delete_image(service, jobs[0].image_id, OPERATOR)
    run_job(service, jobs[2].job_id, "worker", failing)
    forgotten = {"previous_status": None, "duration_seconds": None}
    newer = {"id": "1", "event_type": "regenerated", "image_id": "", "job_id": "", "metadata": "{}"}
    with service.database.write() as connection:
        connection.execute(update(image_upload_events).values(forgotten))
        connection.execute(insert(image_upload_events).values(newer | {"created_at": ""}))
    assert read_counts(service) == count_jobs(service)
    current = read_figures(service.database)
    assert (current.completed.total(), current.timed.total()) == (2, 0)


@ON_POSTGRES
def test_database_restored_on_a_younger_server_is_counted_again(
    service: Service, submit_image: Submit, done: Job
) -> None:
    store_snapshot(service.database)
    transaction, position = image_upload_events.c.transaction_id, job_statistics.c.position
    with service.database.write() as connection:
        later = update(image_upload_events).values(transaction_id=transaction + 10**9)
        connection.execute(later)
        connection.execute(update(job_statistics).values(position=position + 10**9))
    ensure_snapshot(service.database)
    submit_image()
    counts = read_counts(service)
    assert (counts["completed"], counts["pending"]) == (1, 1)
    assert counts == count_jobs(service)


def test_wrong_statistics_are_repaired(service: Service, done: Job) -> None:
    assert list(find_discrepancies(service)) == []
    with service.database.write() as connection:  # a change without an event
        connection.execute(
            update(processing_jobs).values(deleted_at=clock.to_text(clock.utc_now()))
        )
    for repair in (False, True):
        (found,) = find_discrepancies(service, repair=repair)
        assert (found.kind, found.where) == ("statistics_wrong", "completed 1, not 0")
        assert found.repaired == repair
    assert read_counts(service)["completed"] == 0
    assert list(find_discrepancies(service)) == []
