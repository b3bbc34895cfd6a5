"""No query of a request or of the sweep reads or sorts all jobs or all events.

Each runs on a database with 100 000 finished jobs, and its plan is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import getmembers, isfunction
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event, select, text

from benchmarks.rows import fill
from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue import rate_limits
from imageprocessor.queue.database import clock, prepared
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.tables import (
    HAS_FAILED,
    IS_DELETED,
    IS_OPEN,
    IS_PROCESSING,
    IS_WAITING,
    KEEPS_SOURCE,
    batches,
    metadata,
    processing_jobs,
    webhook_endpoints,
)
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs import (
    batch_store,
    inventory,
    job_store,
    outbox,
    search,
    webhook_deliveries,
    webhook_history,
)
from imageprocessor.queue.jobs.batch_store import Batch, Outcome
from imageprocessor.queue.jobs.figures import ensure_snapshot, read_figures, store_snapshot
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus, after_failure
from imageprocessor.queue.jobs.place import Place
from imageprocessor.queue.jobs.search import JobFilter
from imageprocessor.queue.jobs.webhook_deliveries import Delivery
from imageprocessor.queue.jobs.webhooks import DeliveryStatus, Endpoint
from imageprocessor.queue.maintenance.old_events import delete_events, find_old_events
from imageprocessor.settings import Settings
from tests.servers import create_database

#: PostgreSQL plans by the number of rows, SQLite does not.
JOBS = {"sqlite": 5_000, "postgres": 100_000}
NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ANY_ID = str(uuid4())
RECENTLY = clock.to_text(NOW - HOUR)
WAITING_JOBS = 200
BATCHES = 5000
BATCH_ID = make_id()
LARGE = "processing_jobs|image_upload_events|batches|webhook_deliveries"
#: Their indexes hold few rows, or those that the caller asks for.
SMALL = {IS_DELETED, IS_OPEN, IS_PROCESSING, IS_WAITING, HAS_FAILED, KEEPS_SOURCE}
SMALL_INDEXES = {
    str(index.name)
    for table in metadata.sorted_tables
    for index in table.indexes
    if index.info["where"] in SMALL
}

Query = Callable[[Connection, Job], object]
ENDPOINT = Endpoint(
    name="shop", url="https://shop.example", secret="whsec_…", created_at=NOW, next_probe_at=NOW
)
DELIVERY = Delivery(ANY_ID, "shop", ANY_ID, "{}", 1, NOW, NOW, None, ANY_ID)

pytestmark = pytest.mark.xdist_group("query plans")  # the databases are filled only once


def read_feed(connection: Connection, job: Job) -> None:
    newest = feed.advance(connection, feed.START)
    assert newest > feed.START
    for after in (feed.START, newest):
        feed.read_events(connection, after, 100)
        feed.read_events(connection, after, 100, user_id=job.user_id)
        feed.read_events(connection, after, 100, job_id=job.job_id)
    feed.measure_lag(connection)


QUERIES: dict[Callable[..., Any], Query] = {
    job_store.find_job: lambda connection, job: job_store.find_job(connection, job.job_id),
    job_store.find_image: lambda connection, job: job_store.find_image(connection, job.image_id),
    job_store.find_repeated: lambda connection, _: job_store.find_repeated(connection, "a", "b"),
    job_store.find_images: lambda connection, job: job_store.find_images(
        connection, [job.image_id, ANY_ID]
    ),
    job_store.find_jobs: lambda connection, job: job_store.find_jobs(
        connection, [job.job_id, ANY_ID]
    ),
    job_store.list_open: lambda connection, job: job_store.list_open(
        connection, [job.job_id, ANY_ID]
    ),
    feed.read_events: read_feed,
    job_store.list_due: lambda connection, _: job_store.list_due(
        connection, NOW, 2, created_before=NOW
    ),
    job_store.claim: lambda connection, job: job_store.claim(
        connection, job.job_id, "worker", NOW, MINUTE
    ),
    job_store.claim_next: lambda connection, _: job_store.claim_next(
        connection, "worker", NOW, MINUTE
    ),
    job_store.complete: lambda connection, job: job_store.complete(connection, job, {}, {}, NOW),
    job_store.end_attempt: lambda connection, job: job_store.end_attempt(
        connection,
        job,
        after_failure(job, StorageUnavailableError("away"), NOW),
        "storage_unavailable",
        "away",
        NOW,
    ),
    job_store.release: job_store.release,
    job_store.release_unfinished: job_store.release_unfinished,
    job_store.retry_failed: lambda connection, job: job_store.retry_failed(connection, job.job_id),
    job_store.mark_deleted: lambda connection, job: job_store.mark_deleted(
        connection, job.image_id, NOW
    ),
    job_store.list_deleted: lambda connection, _: job_store.list_deleted(connection, 2),
    job_store.remove: job_store.remove,
    job_store.list_held_by: lambda connection, _: job_store.list_held_by(connection, "worker"),
    job_store.list_expired: lambda connection, _: job_store.list_expired(connection, NOW),
    job_store.list_misdated: lambda connection, _: job_store.list_misdated(connection, NOW),
    job_store.reset_timestamps: lambda connection, job: job_store.reset_timestamps(
        connection, job, NOW
    ),
    job_store.retry_all_failed: lambda connection, job: job_store.retry_all_failed(
        connection, [job.job_id, ANY_ID]
    ),
    job_store.list_failed_with_source: lambda connection, _: job_store.list_failed_with_source(
        connection, NOW - HOUR, 20
    ),
    job_store.forget_source: job_store.forget_source,
    batch_store.find_repeated: lambda connection, _: batch_store.find_repeated(
        connection, "a", "b"
    ),
    batch_store.find_batch: lambda connection, _: batch_store.find_batch(connection, BATCH_ID),
    batch_store.find_webhooks: lambda connection, _: batch_store.find_webhooks(
        connection, [BATCH_ID, ANY_ID]
    ),
    batch_store.complete_batch: lambda connection, _: batch_store.complete_batch(
        connection, BATCH_ID, NOW
    ),
    batch_store.list_jobs: lambda connection, _: batch_store.list_jobs(connection, BATCH_ID),
    batch_store.list_old: lambda connection, _: batch_store.list_old(connection, NOW - HOUR, 9),
    batch_store.delete_batch: lambda connection, _: batch_store.delete_batch(connection, BATCH_ID),
    outbox.complete_batch: lambda connection, _: outbox.complete_batch(connection, BATCH_ID, NOW),
    outbox.list_events: lambda connection, job: outbox.list_events(connection, job.job_id),
    outbox.list_actions: lambda connection, _: outbox.list_actions(connection, 20, RECENTLY),
    outbox.has_event_since: lambda connection, _: outbox.has_event_since(connection, NOW),
    outbox.list_public: lambda connection, _: outbox.list_public(
        connection, RECENTLY, NOW + HOUR, 20
    ),
    job_store.count_open: lambda connection, _: job_store.count_open(connection),
    outbox.find_deleted_job: lambda connection, job: outbox.find_deleted_job(
        connection, job.image_id
    ),
    job_store.find_storage_fault: lambda connection, _: job_store.find_storage_fault(
        connection, NOW - HOUR
    ),
    job_store.is_any_processed: lambda connection, _: job_store.is_any_processed(connection, NOW),
    job_store.find_oldest_open: lambda connection, _: job_store.find_oldest_open(connection),
    inventory.list_staged: lambda connection, job: inventory.list_staged(
        connection, [f"photos/{job.job_id}"]
    ),
    inventory.list_owned: lambda connection, job: inventory.list_owned(
        connection, {"key": job.image_id}
    ),
    webhook_history.list_of_job: lambda connection, job: webhook_history.list_of_job(
        connection, job.job_id
    ),
    webhook_history.list_waiting: lambda connection, _: webhook_history.list_waiting(
        connection, "shop", 10
    ),
    webhook_history.list_ended: lambda connection, _: webhook_history.list_ended(
        connection, "shop", 10
    ),
    webhook_history.find_delivery: lambda connection, _: webhook_history.find_delivery(
        connection, ANY_ID
    ),
    webhook_history.find_oldest_waiting: (
        lambda connection, _: webhook_history.find_oldest_waiting(connection, "shop")
    ),
    webhook_history.find_last_success: (
        lambda connection, _: webhook_history.find_last_success(connection, "shop")
    ),
    webhook_history.drop_waiting: lambda connection, _: webhook_history.drop_waiting(
        connection, "shop", 10
    ),
    webhook_history.list_repeatable: lambda connection, _: webhook_history.list_repeatable(
        connection, "shop", DeliveryStatus.DELIVERED, RECENTLY, NOW + HOUR, 20
    ),
    webhook_history.list_deleted_images: lambda connection, job: (
        webhook_history.list_deleted_images(connection, [job.image_id, ANY_ID])
    ),
    webhook_history.repeat: lambda connection, _: webhook_history.repeat(connection, [ANY_ID], NOW),
    webhook_history.list_events_sent: lambda connection, job: webhook_history.list_events_sent(
        connection, "shop", [job.job_id, ANY_ID]
    ),
    rate_limits.read_quota: lambda connection, _: rate_limits.read_quota(
        connection, "ann", NOW, 9, HOUR
    ),
    rate_limits.find_old_window: lambda connection, _: rate_limits.find_old_window(
        connection, NOW, HOUR
    ),
    rate_limits.delete_counts: lambda connection, _: rate_limits.delete_counts(connection, "2024"),
    webhook_deliveries.list_enabled: lambda connection, _: webhook_deliveries.list_enabled(
        connection
    ),
    webhook_deliveries.claim_due: lambda connection, _: webhook_deliveries.claim_due(
        connection, "shop", 8, NOW, MINUTE
    ),
    webhook_deliveries.mark_delivered: lambda connection, _: webhook_deliveries.mark_delivered(
        connection, DELIVERY, 200, NOW
    ),
    webhook_deliveries.mark_failed: lambda connection, _: webhook_deliveries.mark_failed(
        connection, DELIVERY, (500, "answered 500"), NOW + MINUTE, NOW
    ),
    webhook_deliveries.release: lambda connection, _: webhook_deliveries.release(
        connection, DELIVERY
    ),
    webhook_deliveries.begin_probe: lambda connection, _: webhook_deliveries.begin_probe(
        connection, ENDPOINT, NOW
    ),
    webhook_deliveries.set_failing: lambda connection, _: webhook_deliveries.set_failing(
        connection, ENDPOINT, NOW, NOW
    ),
    webhook_deliveries.clear_failing: lambda connection, _: webhook_deliveries.clear_failing(
        connection, "shop"
    ),
    webhook_deliveries.list_misdated: lambda connection, _: webhook_deliveries.list_misdated(
        connection, "shop", NOW, 20
    ),
    webhook_deliveries.make_due: lambda connection, _: webhook_deliveries.make_due(
        connection, [ANY_ID], NOW
    ),
    webhook_deliveries.drop_context: lambda connection, job: webhook_deliveries.drop_context(
        connection, job.image_id
    ),
    webhook_deliveries.has_ended_before: lambda connection, _: webhook_deliveries.has_ended_before(
        connection, NOW
    ),
    webhook_deliveries.delete_ended: lambda connection, _: webhook_deliveries.delete_ended(
        connection, NOW
    ),
    rate_limits.forget_user: lambda connection, _: rate_limits.forget_user(connection, "ann"),
}
#: Functions whose queries may read everything, and why, or that run none.
EXCEPTIONS = {
    job_store.insert_job: "an INSERT",
    batch_store.insert_batch: "an INSERT",
    outbox.add_event: "an INSERT",
    outbox.announce: "an INSERT, and a read of the few endpoints",
    job_store.change_nothing: "its condition is false",
    job_store.escape: "no query",
    outbox.add_action: "an INSERT",
    search.search: "below, for each status",
    search.search_kept: "likewise",
    webhook_history.list_with_status: "likewise",
    webhook_history.place_of: "no query",
    job_store.count_by_status: "for a backup, and once after a migration",
    job_store.status_before_claim: "no query",
    inventory.has_images: "only while a storage's marker is missing",
    inventory.iterate_jobs: "for fsck, in pages, which are checked below",
    inventory.iterate_variants: "for a backup, in pages likewise",
    webhook_history.count_waiting: "below, because it reads an index up to a limit",
    rate_limits.count_upload: "an INSERT",
    rate_limits.require_remaining: "no query",
    rate_limits.window_start: "no query",
}


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with JOBS finished jobs and some that wait; *job* is a finished one."""

    database: Database
    job: Job

    def explain(self, query: Query) -> list[str]:
        """Run *query* in a transaction that is rolled back; return the plan of each statement."""
        plans: list[str] = []
        with roll_back(self.database) as connection, watch(self.database, plans):
            query(connection, self.job)
        return plans


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    values: dict[str, object] = {"data_dir": tmp_path_factory.mktemp("data")}
    if request.param == "postgres":
        values["database_url"] = create_database(request.getfixturevalue("postgres"))
    with closing(open_database(Settings.model_validate(values))) as database:
        migrate(database)
        job_count = JOBS[request.param]
        fill(database, job_count)
        with database.read() as connection:
            row = connection.execute(select(processing_jobs).limit(1).offset(job_count // 2))
            job = Job.from_row(dict(row.mappings().one()))
        add_waiting(database, job)
        add_batches(database, job)
        add_deliveries(database)
        if request.param == "postgres":  # as autovacuum does within a minute
            with database.write() as connection:
                connection.execute(text("ANALYZE"))
        yield Filled(database, job)


#: A search for these reads as many jobs as it may, and finds none.
RARE: dict[str, Any] = {
    "user_id": "nobody",
    "bucket": "photos",
    "error_code": "image_invalid",
    "created_after": NOW - 20 * 24 * HOUR,
    "created_before": NOW - MINUTE,
}


def add_waiting(database: Database, template: Job) -> None:
    with database.write() as connection:
        for number in range(WAITING_JOBS):
            is_retry = number % 4 == 0
            job = replace(
                template,
                job_id=make_id(),
                image_id=str(uuid4()),
                status=JobStatus.RETRYING if is_retry else JobStatus.PENDING,
                next_attempt_at=NOW - MINUTE if is_retry else None,
                created_at=NOW - HOUR,
                completed_at=None,
            )
            job_store.insert_job(connection, job)


def add_batches(database: Database, template: Job) -> None:
    """Add completed batches, and one with a job that has ended, which is to be completed."""
    of_one = Batch(
        batch_id=BATCH_ID,
        user_id="ann",
        bucket="photos",
        outcomes=(Outcome("a.jpg", template.job_id, template.image_id),),
        payload_sha256="",
        created_at=NOW,
    )
    rows = [of_one.to_row()]
    for number in range(BATCHES):
        other = replace(of_one, batch_id=make_id(), idempotency_key=str(number), completed_at=NOW)
        rows.append(other.to_row())
    job = replace(template, job_id=make_id(), image_id=str(uuid4()), batch_id=BATCH_ID)
    with database.write() as connection:
        connection.execute(batches.insert(), rows)
        job_store.insert_job(connection, job)


def add_deliveries(database: Database) -> None:
    """Add 6 000 deliveries that have ended, and as many that wait, to two endpoints."""
    insert = """
        INSERT INTO webhook_deliveries (
            delivery_id, endpoint, event_id, event_type, image_id, job_id, body, status,
            attempt_count, next_attempt_at, created_at, ended_at
        )
        SELECT
            {prefix} || substr(job_id, 3),
            CASE WHEN user_id < 'user-5' THEN 'shop' ELSE 'other' END,
            job_id, 'image.completed', image_id, job_id, '{{}}', {status}, 1,
            {due_at}, created_at, {ended_at}
        FROM processing_jobs WHERE completed_at IS NOT NULL AND substr(job_id, 36) = '0'
    """
    with database.write() as connection:
        for endpoint in (ENDPOINT, replace(ENDPOINT, name="other")):
            connection.execute(webhook_endpoints.insert().values(endpoint.to_row()))
        values = {"prefix": "'aa'", "due_at": "NULL", "ended_at": "completed_at"}
        ended = "CASE WHEN substr(job_id, 35, 1) < '4' THEN 'failed' ELSE 'delivered' END"
        connection.execute(text(insert.format(status=ended, **values)))
        values = {"prefix": "'bb'", "due_at": "completed_at", "ended_at": "NULL"}
        connection.execute(text(insert.format(status="'waiting'", **values)))


@contextmanager
def roll_back(database: Database) -> Iterator[Connection]:
    """Yield a connection in a transaction that is rolled back."""
    with suppress(RollBackError), database.write() as connection:
        yield connection
        raise RollBackError


class RollBackError(Exception):
    """Raised to end a transaction."""


@contextmanager
def watch(database: Database, plans: list[str]) -> Iterator[None]:
    """Append the plan of each SELECT, UPDATE and DELETE to *plans*."""
    watching = [True]

    def explain(connection: Any, statement: str, parameters: Any) -> None:
        if not watching[0] or not re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)", statement):
            return
        watching[0] = False
        kind = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        rows = connection.exec_driver_sql(f"{kind} {statement}", parameters)
        plans.append(f"{statement}\n" + "\n".join(str(row[-1]) for row in rows))
        watching[0] = True

    def look(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        explain(connection, statement, parameters)

    run_on_driver = prepared._run_on_driver  # its statements bypass SQLAlchemy's events

    def run(connection: Connection, statement: Any, parameters: Any) -> Any:
        names = tuple(parameters)
        explain(connection, prepared._compile(statement, connection.dialect, names), parameters)
        return run_on_driver(connection, statement, parameters)

    engine = database.connections.engine
    event.listen(engine, "before_cursor_execute", look)
    patch = pytest.MonkeyPatch()
    patch.setattr(prepared, "_run_on_driver", run)
    try:
        yield
    finally:
        patch.undo()
        event.remove(engine, "before_cursor_execute", look)


def find_fault(plan: str, *, may_stop: bool = False) -> str:
    """Return the step of *plan* whose cost grows with the number of finished jobs, or "".

    *may_stop*: a scan of an index in its order is right, because it stops at the LIMIT.
    """
    reads_few = any(index in plan for index in SMALL_INDEXES)
    lines = plan.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.search(rf"Seq Scan on ({LARGE})|^(?:SCAN|SEARCH) ({LARGE})(?: LEFT-JOIN)?$", line):
            return line
        if re.search("TEMP B-TREE|Sort Key", line) and not reads_few:
            return line
        scanned = re.search(
            rf"SCAN ({LARGE}) USING (?:COVERING )?INDEX (?P<sqlite>\w+)"
            rf"|Scan (?:Backward )?using (?P<postgres>\w+) on ({LARGE})",
            line,
        )
        if scanned is None or "Index Cond" in following or may_stop:
            continue
        if (scanned["sqlite"] or scanned["postgres"]) not in SMALL_INDEXES:
            return line
    return ""


@pytest.mark.parametrize("function", QUERIES, ids=lambda function: function.__name__)
def test_no_query_reads_or_sorts_everything(filled: Filled, function: Callable[..., Any]) -> None:
    plans = filled.explain(QUERIES[function])
    assert plans
    assert [plan for plan in plans if find_fault(plan)] == []


@pytest.mark.parametrize("fields", [{}, RARE], ids=["any", "rare"])
@pytest.mark.parametrize("status", [None, *JobStatus])
def test_jobs_of_any_status_are_found_through_an_index(
    filled: Filled,
    status: JobStatus | None,
    fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "SEARCHED_JOBS", 100)
    wanted = JobFilter(status=status, **fields)
    newest = filled.explain(lambda connection, _: search.search(connection, wanted, 20, None))
    older = filled.explain(
        lambda connection, job: search.search(
            connection, wanted, 20, Place(clock.to_text(job.created_at), job.job_id)
        )
    )
    for *ends, found in (newest, older):
        # If every job of an index is wanted, reading it stops at the LIMIT. Else the end of the
        # search is found by an index, in which reading stops at the LIMIT.
        assert bool(ends) == wanted.is_selective
        assert [plan for plan in ends if find_fault(plan, may_stop=True)] == []
        assert find_fault(found, may_stop=not wanted.is_selective) == ""


@pytest.mark.parametrize("fields", [{}, RARE], ids=["any", "rare"])
def test_failed_jobs_to_retry_are_found_through_an_index(
    filled: Filled, fields: dict[str, Any]
) -> None:
    plans = filled.explain(
        lambda connection, _: search.search_kept(connection, JobFilter(**fields), 20, PLACE)
    )
    assert plans
    assert [plan for plan in plans if "ix_jobs_kept_sources" not in plan] == []


PLACE = Place(RECENTLY, ANY_ID)


def list_deliveries(
    status: DeliveryStatus, after: Place | None, connection: Connection, _: Job
) -> None:
    webhook_history.list_with_status(connection, "shop", status, 20, after)


@pytest.mark.parametrize("status", DeliveryStatus)
def test_pages_of_deliveries_are_read_through_an_index(
    filled: Filled, status: DeliveryStatus
) -> None:
    index = "due" if status is DeliveryStatus.WAITING else "history"
    page = partial(list_deliveries, status)
    plans = filled.explain(partial(page, None)) + filled.explain(partial(page, PLACE))
    assert len(plans) == 4
    assert [plan for plan in plans if f"ix_deliveries_{index}" not in plan] == []
    # The time of the last delivery is found by the index, which stops at the LIMIT.
    assert [plan for plan in plans[::2] if re.search("Sort|TEMP B-TREE", plan)] == []


@pytest.mark.parametrize("endpoint", ["shop", None])
def test_waiting_deliveries_are_counted_in_an_index(filled: Filled, endpoint: str | None) -> None:
    (plan,) = filled.explain(
        lambda connection, _: webhook_history.count_waiting(connection, endpoint)
    )
    assert "ix_deliveries_due" in plan


def test_a_page_of_all_jobs_is_read_through_an_index(filled: Filled) -> None:
    plans: list[str] = []
    with watch(filled.database, plans):
        pages = inventory.iterate_jobs(filled.database)
        for _ in range(inventory.ROWS_PER_QUERY + 1):
            next(pages)
    newest, first_page, second_page = plans
    assert find_fault(newest, may_stop=True) == ""
    assert [find_fault(page) for page in (first_page, second_page)] == ["", ""]


def test_old_events_are_found_and_deleted_through_an_index(filled: Filled) -> None:
    def prune(connection: Connection, _: Job) -> None:
        same = partial(nullcontext, connection)
        settings = Settings(audit_retention_days=1)
        service: Any = SimpleNamespace(
            database=SimpleNamespace(read=same, write=same), settings=settings
        )
        delete_events(service, next(find_old_events(service)))

    plans = filled.explain(prune)
    assert any("DELETE FROM image_upload_events" in plan for plan in plans)
    assert [plan for plan in plans if find_fault(plan)] == []


@pytest.mark.parametrize("function", [read_figures, store_snapshot])
def test_figures_read_only_the_events_since_the_snapshot(
    filled: Filled, function: Callable[[Database], object]
) -> None:
    ensure_snapshot(filled.database)
    plans: list[str] = []
    with watch(filled.database, plans):
        function(filled.database)
    on_events = [plan for plan in plans if "GROUP BY" in plan]
    assert on_events
    for plan in on_events:
        assert re.search("USING INTEGER PRIMARY KEY|using ix_events_order", plan), plan
    assert not [plan for plan in plans if re.search(f"(SCAN|Seq Scan on) ({LARGE})", plan)]


@pytest.mark.parametrize(
    "module",
    [
        job_store,
        search,
        batch_store,
        outbox,
        inventory,
        rate_limits,
        webhook_deliveries,
        webhook_history,
    ],
)
def test_every_function_with_a_query_is_tested(module: ModuleType) -> None:
    functions = {
        function
        for name, function in getmembers(module, isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions - QUERIES.keys() - EXCEPTIONS.keys() == set()


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("ix_jobs_processing", QUERIES[job_store.list_expired]),
        ("ix_jobs_open", QUERIES[job_store.find_oldest_open]),
        ("ix_events_job", QUERIES[outbox.list_events]),
        ("ix_jobs_batch", QUERIES[batch_store.find_batch]),
        ("ix_deliveries_due", QUERIES[webhook_deliveries.list_enabled]),
        ("ix_deliveries_due", QUERIES[webhook_deliveries.claim_due]),
        ("ix_deliveries_waiting", QUERIES[webhook_deliveries.drop_context]),
        ("ix_deliveries_ended", QUERIES[webhook_deliveries.delete_ended]),
    ],
)
def test_a_missing_index_is_noticed(filled: Filled, index: str, query: Query) -> None:
    def without_index(connection: Connection, job: Job) -> None:
        connection.execute(text(f"DROP INDEX {index}"))
        query(connection, job)

    assert any(find_fault(plan) for plan in filled.explain(without_index))


def test_events_are_added_at_the_end_of_their_indexes(filled: Filled) -> None:
    """So an index on time keeps its pages full, however many rows there are."""
    with roll_back(filled.database) as connection:
        for _ in range(3):
            outbox.add_event(
                connection,
                EventType.RETRYING,
                filled.job,
                NOW,
                previous_status=JobStatus.PROCESSING,
            )
        events = outbox.list_events(connection, filled.job.job_id)
    assert [found["seq"] for found in events] == sorted(found["seq"] for found in events)
