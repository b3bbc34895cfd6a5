from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text

from imageprocessor.errors import ExpiredCursorError, InvalidCursorError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.events import feed
from imageprocessor.queue.events.feed import START, Event, Position
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.job_control import read_job, retry_job
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus
from imageprocessor.queue.maintenance import old_events
from imageprocessor.queue.maintenance.old_events import delete_events, find_old_events
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit, with_settings

only_postgres = pytest.mark.parametrize("settings", ["postgres"], indirect=True)


def fetch(
    service: Service, after: Position = START, limit: int = 100, **selected: str
) -> list[Event]:
    return feed.fetch_events(service.database, after, limit, **selected)


def describe(found: list[Event]) -> list[tuple[str, str]]:
    return [(event.job_id, event.public_type) for event in found]


def read_body(event: Event, base_url: str = "https://cdn.example.com") -> dict[str, object]:
    body: dict[str, object] = json.loads(event.encode(base_url))
    return body


@contextmanager
def transaction(service: Service) -> Iterator[Connection]:
    """Yield a connection whose transaction commits at the end of the context."""
    with service.database.write() as connection:
        yield connection


def announce(connection: Connection, job: Job) -> None:
    outbox.add_event(
        connection, EventType.COMPLETED, job, clock.utc_now(), previous_status=JobStatus.PROCESSING
    )


def test_events_are_in_order_and_those_of_a_user_or_job_apart(
    service: Service, submit_image: Submit, done: Job
) -> None:
    other = submit_image(user_id="bob")
    delete_image(service, done.image_id, OPERATOR)
    accepted, completed, deleted = "image.accepted", "image.completed", "image.deleted"
    of_done = [(done.job_id, accepted), (done.job_id, completed), (done.job_id, deleted)]
    every = [*of_done[:2], (other.job_id, accepted), of_done[2]]

    assert describe(fetch(service)) == every, "no claims"
    assert describe(fetch(service, user_id="ann")) == of_done
    assert describe(fetch(service, user_id="bob")) == [every[2]]
    assert describe(fetch(service, job_id=done.job_id)) == of_done
    positions = [event.position for event in fetch(service)]
    assert positions == sorted(positions)
    selections: list[dict[str, Any]] = [{}, {"user_id": "ann"}, {"job_id": done.job_id}]
    for selected in selections:
        database = service.database
        found = feed.fetch_events(database, START, 100, **selected)
        assert feed.fetch_events(database, START, 2, **selected) == found[:2]
        assert feed.fetch_events(database, found[0].position, 100, **selected) == found[1:]


def test_an_event_says_what_was_true_when_it_happened(
    service: Service, submit_image: Submit, done: Job
) -> None:
    accepted, completed = (read_body(event) for event in fetch(service))
    assert list(accepted)[:3] == ["id", "type", "timestamp"]
    assert (accepted["status"], "urls" in accepted) == ("pending", False)
    assert completed["status"] == "completed"
    assert completed["urls"] == {
        size: f"https://cdn.example.com/storage/{key}"
        for size, key in (done.variant_keys or {}).items()
    }
    assert "context" in completed
    (last,) = fetch(service, limit=1, after=fetch(service)[0].position)
    assert "context" not in json.loads(last.encode("", shows_context=False))


def test_failure_is_still_told_after_a_retry(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    once = with_settings(service, max_retries=0)
    job = submit_image()
    with service.database.write() as connection:
        connection.execute(text("UPDATE processing_jobs SET max_retries = 0"))
    with monkeypatch.context() as patch:
        patch.setattr("imageprocessor.queue.attempts.process", crash)
        run_job(once, job.job_id, "worker")
    before = read_body(fetch(service)[-1])
    assert (before["status"], before["error_code"]) == ("failed", "internal_error")
    assert before["error"]

    retry_job(service, job.job_id)
    run_job(service, job.job_id, "worker")
    _, failed, completed = (read_body(event) for event in fetch(service))
    kept = ("id", "type", "status", "error_code", "completed_at")
    assert [failed[name] for name in kept] == [before[name] for name in kept]
    assert completed["status"] == "completed"


def test_nothing_but_ids_is_told_of_a_deleted_image(service: Service, done: Job) -> None:
    delete_image(service, done.image_id, OPERATOR)
    bodies = [read_body(event) for event in fetch(service)]
    assert [body["type"] for body in bodies] == [
        "image.accepted",
        "image.completed",
        "image.deleted",
    ]
    for body in bodies:
        expected = ["id", "type", "timestamp", "job_id", "image_id", "bucket", "status"]
        assert list(body) == expected
        assert body["status"] == "deleted"


@pytest.mark.parametrize(
    "cursor", ["x", "", "1", "-1-1", "1-x", "1-2-3", "1-99999999999999999999", " 1-1", "1-\u0661"]
)
def test_other_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(InvalidCursorError, match="is not a cursor"):
        Position.parse(cursor)


def test_a_page_says_where_to_continue(service: Service, submit_image: Submit) -> None:
    jobs = [submit_image(user_id=user_id) for user_id in ("ann", "bob", "ann", "bob")]
    read_page = feed.read_page
    first, following = read_page(service.database, None, 1, user_id="ann")
    second, following = read_page(service.database, following, 1, user_id="ann")
    assert [event.job_id for event in first + second] == [jobs[0].job_id, jobs[2].job_id]
    empty, following = read_page(service.database, following, 1, user_id="ann")
    assert empty == []
    newest = fetch(service)[-1]
    assert following == newest.position, "the cursor does not grow old while others are active"
    assert Position.parse(str(following)) == following
    assert read_page(service.database, following, 1, user_id="ann") == ([], following)
    assert read_page(service.database, following, 1) == ([], following)


def test_a_page_of_no_events_continues_at_the_start(service: Service) -> None:
    assert feed.read_page(service.database, None, 10) == ([], START)
    assert feed.read_page(service.database, START, 10, user_id="ann") == ([], START)


def test_cursor_expires_with_the_events_after_it(
    service: Service,
    submit_image: Submit,
    done: Job,
    set_clock: Callable[[timedelta], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if an event's time is earlier than that of one before it."""
    later = submit_image()
    run_job(service, later.job_id, "worker")
    second = fetch(service)[1].occurrence.event_id
    with service.database.write() as connection:
        newest = connection.scalar(select(func.max(events.c.created_at)))
        connection.execute(events.update().where(events.c.id == second).values(created_at=newest))
    accepted, completed, *rest = fetch(service)
    set_clock(timedelta(days=10))
    store_snapshot(service.database)
    monkeypatch.setattr(old_events, "EVENTS_PER_BATCH", 4)
    pruning = with_settings(service, audit_retention_days=1)
    batch = next(find_old_events(pruning))
    delete_events(pruning, batch)
    left = fetch(service)
    gone = [event for event in (accepted, completed, *rest) if event not in left]
    assert completed in left
    assert rest[0] in gone

    last_gone = max(event.position for event in gone)
    for event in (accepted, completed):
        assert event.position < last_gone
        with pytest.raises(ExpiredCursorError, match="no longer kept"):
            feed.read_page(service.database, event.position, 10)
    assert feed.read_page(service.database, last_gone, 10)[0] == [
        event for event in left if event.position > last_gone
    ]
    assert feed.read_page(service.database, None, 10)[0] == left
    delete_events(pruning, batch)
    with service.database.read() as connection:
        assert feed.read_pruned(connection) == last_gone, "an empty batch changes nothing"


def test_cursor_of_another_database_is_refused(service: Service, done: Job) -> None:
    newest = fetch(service)[-1].position
    ahead = Position(newest.transaction_id + 1_000_000, newest.number + 1_000_000)
    with pytest.raises(ExpiredCursorError, match="another database"):
        feed.read_page(service.database, ahead, 10)


def test_open_jobs_are_told_from_those_that_ended(
    service: Service, submit_image: Submit, done: Job
) -> None:
    waiting, deleted = submit_image(), submit_image()
    delete_image(service, deleted.image_id, OPERATOR)
    ids = [waiting.job_id, deleted.job_id, done.job_id, "unknown"]
    assert feed.read_open_jobs(service.database, ids) == {waiting.job_id}
    assert read_job(service, waiting.job_id, OPERATOR).status is JobStatus.PENDING


class Reader:
    """A reader of all events, which polls as `event_poller` does."""

    def __init__(self, service: Service) -> None:
        self.service, self.after = service, START
        self.seen: list[str] = []

    def poll(self) -> None:
        with self.service.database.read() as connection:
            newest = feed.find_newest(connection)
        found = fetch(self.service, self.after)
        self.seen += [event.occurrence.event_id for event in found]
        self.after = max([newest, *(event.position for event in found)])


@only_postgres
@pytest.mark.parametrize("first_id", [0, 1], ids=["same order", "crossed"])
@pytest.mark.parametrize("first_commit", [0, 1], ids=["first", "second"])
def test_no_late_commit_is_skipped_and_none_is_read_twice(
    service: Service, submit_image: Submit, first_id: int, first_commit: int
) -> None:
    """Two transactions; the order of their ids, numbers and commits differ."""
    job = submit_image()
    reader = Reader(service)
    reader.poll()
    with ExitStack() as open_transactions:
        stacks = [open_transactions.enter_context(ExitStack()) for _ in range(2)]
        connections = [stack.enter_context(transaction(service)) for stack in stacks]
        for index in (first_id, 1 - first_id):
            connections[index].execute(text("SELECT pg_current_xact_id()"))
        for connection in connections:  # in the order of their numbers
            announce(connection, job)
            reader.poll()
        stacks[first_commit].close()
        reader.poll()
        stacks[1 - first_commit].close()
        reader.poll()
    reader.poll()
    every = [event.occurrence.event_id for event in fetch(service)]
    assert len(every) == 3
    assert sorted(reader.seen) == sorted(every)
    assert reader.seen == every


@only_postgres
def test_long_transaction_elsewhere_holds_back_events_but_not_those_of_a_job(
    service: Service, submit_image: Submit, set_clock: Callable[[timedelta], None]
) -> None:
    with transaction(service) as connection:
        connection.execute(text("SELECT pg_current_xact_id()"))
        job = submit_image()
        run_job(service, job.job_id, "worker")
        assert fetch(service) == []
        assert len(fetch(service, job_id=job.job_id)) == 2
        set_clock(timedelta(seconds=90))
        with service.database.read() as reader:
            assert 90 <= feed.measure_lag(reader) < 100
    assert len(fetch(service)) == 2
    with service.database.read() as reader:
        assert feed.measure_lag(reader) == 0
