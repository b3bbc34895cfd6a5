from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.database import clock
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.jobs.job import EventType, Job
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service
from tests.queue.conftest import with_settings


def act(service: Service, *names: str) -> None:
    for name in names:
        with service.database.write() as connection:
            outbox.add_action(connection, EventType.PAUSED, clock.utc_now(), name, reason="x" * 300)


def test_actions_are_listed_in_pages_newest_first(service: Service, done: Job) -> None:
    assert list_actions(service, 9) == []
    act(service, "ann", "böb\u202e", "cid")
    first, second = list_actions(service, 2)
    (third,) = list_actions(service, 2, second["created_at"])
    assert list_actions(service, 2, third["created_at"]) == []
    assert [action["metadata"] for action in (first, second, third)] == [
        {"by": by, "reason": "x" * 300} for by in ("cid", "böb\u202e", "ann")
    ]
    assert (first["event_type"], first["job_id"], first["image_id"]) == ("paused", "", "")


def test_actions_are_no_events_of_the_feed_and_no_jobs(service: Service, done: Job) -> None:
    before, _ = feed.read_page(service.database, None, 9)
    act(service, "ann")
    after, _ = feed.read_page(service.database, None, 9)
    assert after == before
    assert list(find_discrepancies(service)) == []


def test_old_actions_are_deleted_with_the_other_events(
    service: Service, set_clock: Callable[[timedelta], None]
) -> None:
    service = with_settings(service, audit_retention_days=2)
    act(service, "ann")
    set_clock(timedelta(days=1))
    act(service, "bob")
    set_clock(timedelta(days=2, hours=2))
    store_snapshot(service.database)  # as the sweeper does
    sweep(service)
    assert [action["metadata"]["by"] for action in list_actions(service, 9)] == ["bob"]
