from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select

from imageprocessor.errors import (
    DeliveryNotRepeatableError,
    InvalidCursorError,
    InvalidIdError,
    UnknownDeliveryError,
)
from imageprocessor.queue import webhook_replay
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.batches import BatchUpload, ReceivedFile, submit_batch
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import webhook_deliveries
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.jobs.webhooks import DeliveryStatus
from imageprocessor.queue.maintenance.progress import ignore
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender
from imageprocessor.queue.webhook_replay import Replayed, replay
from imageprocessor.queue.webhooks import (
    list_deliveries_page,
    remove_endpoint,
    repeat_delivery,
)
from tests.images import encode, photo, truncated
from tests.queue.conftest import Submit
from tests.queue.test_webhooks import add, end_deliveries

LONG_AGO = clock.utc_now() - timedelta(days=30)


def list_rows(service: Service, endpoint: str = "shop") -> list[dict[str, Any]]:
    query = select(webhook_deliveries).where(webhook_deliveries.c.endpoint == endpoint)
    with service.database.read() as connection:
        rows = connection.execute(query.order_by(webhook_deliveries.c.created_at)).mappings()
        return [dict(row) for row in rows]


def finish(service: Service, submit_image: Submit, data: bytes | None = None, **fields: str) -> Job:
    job = submit_image(data, **fields)
    run_job(service, job.job_id, "worker")
    return job


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_replay, "ROWS_PER_BATCH", 2)


def test_what_ended_since_then_is_sent_again_under_the_same_ids(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    add(service, "other")
    submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    since = clock.utc_now()
    for _ in range(5):
        submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    before = list_rows(service)
    assert replay(service, "shop", clock.utc_now(), ignore) == Replayed(0, 0)
    assert replay(service, "shop", since, ignore) == Replayed(5, 0)
    after = list_rows(service)
    assert [row["event_id"] for row in after] == [row["event_id"] for row in before]
    assert [row["body"] for row in after] == [row["body"] for row in before]
    assert [row["status"] for row in after] == ["delivered", *["waiting"] * 5]
    assert {(row["attempt_count"], row["ended_at"]) for row in after[1:]} == {(0, None)}
    assert {row["status"] for row in list_rows(service, "other")} == {"delivered"}
    assert replay(service, "shop", since, ignore) == Replayed(0, 0), "all wait already"


def test_only_failed_deliveries_are_sent_again_if_asked(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    assert replay(service, "shop", LONG_AGO, ignore, failed_only=True) == Replayed(0, 0)
    submit_image()
    end_deliveries(service, DeliveryStatus.FAILED)
    replayed = replay(service, "shop", LONG_AGO, ignore, failed_only=True, by="root")
    assert replayed == Replayed(1, 0)
    action = list_actions(service, 1)[0]
    assert (action["event_type"], action["metadata"]) == (
        "webhook_replayed",
        {
            "by": "root",
            "endpoint": "shop",
            "since": clock.to_text(LONG_AGO),
            "failed_only": True,
            "repeated": 1,
            "added": 0,
        },
    )


def test_events_from_before_an_endpoint_are_sent_with_the_bodies_that_they_had(
    service: Service, submit_image: Submit
) -> None:
    """An endpoint that was there all the time shows which."""
    add(service, "always")
    finish(service, submit_image, metadata='{"album": 7}')
    finish(service, submit_image, truncated(encode(photo(80, 60), "JPEG"), 0.6))
    submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    add(service)
    assert replay(service, "shop", LONG_AGO, ignore) == Replayed(0, 5)
    expected = {row["event_id"]: row for row in list_rows(service, "always")}
    found = {row["event_id"]: row for row in list_rows(service)}
    assert found.keys() == expected.keys()
    for event_id, row in found.items():
        for column in ("body", "event_type", "image_id", "job_id", "created_at"):
            assert row[column] == expected[event_id][column]
        assert row["status"] == "waiting"
    assert replay(service, "shop", LONG_AGO, ignore) == Replayed(0, 0)


def test_completed_batch_is_sent_with_the_body_that_it_had(service: Service) -> None:
    """Endpoints that were there all the time show which; one is named by a batch."""
    add(service, "always")
    add(service, "named", only_named=True)
    data = encode(photo(80, 60), "JPEG")
    file = ReceivedFile("a.jpg", data, len(data), hashlib.sha256(data).hexdigest())
    for webhook in ("", "named"):
        upload = BatchUpload([file], "photos", webhook=webhook)
        batch, _ = submit_batch(service, upload, Sender("ann"))
        run_job(service, str(batch.outcomes[0].job_id), "worker")
    end_deliveries(service, DeliveryStatus.DELIVERED)
    expected = {
        name: [row["body"] for row in list_rows(service, name)] for name in ("always", "named")
    }
    for name in expected:
        remove_endpoint(service, name, ignore)
        with service.database.write() as connection:
            connection.execute(delete(webhook_deliveries))
    add(service, "always")
    add(service, "named", only_named=True)
    assert replay(service, "always", LONG_AGO, ignore) == Replayed(0, 6)
    assert replay(service, "named", LONG_AGO, ignore) == Replayed(0, 3)
    for name, bodies in expected.items():
        assert sorted(row["body"] for row in list_rows(service, name)) == sorted(bodies)
        assert [row["event_type"] for row in list_rows(service, name)].count("batch.completed")
    assert replay(service, "always", LONG_AGO, ignore) == Replayed(0, 0)


def test_events_that_an_endpoint_does_not_ask_for_are_not_added(
    service: Service, submit_image: Submit
) -> None:
    finish(service, submit_image)
    finish(service, submit_image, bucket="others")
    add(service, event_types=["image.completed"], buckets=["photos"])
    assert replay(service, "shop", LONG_AGO, ignore) == Replayed(0, 1)
    (row,) = list_rows(service)
    assert json.loads(row["body"])["bucket"] == "photos"


def test_nothing_but_its_deletion_is_sent_of_a_deleted_image(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    gone = finish(service, submit_image, metadata='{"secret": 7}')
    delete_image(service, gone.image_id, OPERATOR)
    end_deliveries(service, DeliveryStatus.FAILED)
    assert replay(service, "shop", LONG_AGO, ignore) == Replayed(1, 0)
    waiting = [row for row in list_rows(service) if row["status"] == "waiting"]
    assert [row["event_type"] for row in waiting] == ["image.deleted"]
    expected = waiting[0]["body"]

    remove_endpoint(service, "shop", ignore)
    add(service, "late")
    assert replay(service, "late", LONG_AGO, ignore) == Replayed(0, 1)
    (row,) = list_rows(service, "late")
    assert row["body"] == expected


def test_one_delivery_is_sent_again(service: Service, submit_image: Submit) -> None:
    add(service)
    job = submit_image()
    (waiting,) = list_rows(service)
    assert not repeat_delivery(service, waiting["delivery_id"], "root")
    end_deliveries(service, DeliveryStatus.FAILED)
    assert repeat_delivery(service, waiting["delivery_id"], "root")
    (row,) = list_rows(service)
    assert (row["status"], row["attempt_count"], row["ended_at"]) == ("waiting", 0, None)
    assert (row["event_id"], row["body"]) == (waiting["event_id"], waiting["body"])
    assert not repeat_delivery(service, waiting["delivery_id"], "root")
    (action,) = list_actions(service, 9)
    assert action["event_type"] == "webhook_replayed"
    assert action["metadata"] == {
        "by": "root",
        "endpoint": "shop",
        "delivery_id": waiting["delivery_id"],
        "repeated": 1,
    }

    delete_image(service, job.image_id, OPERATOR)
    end_deliveries(service, DeliveryStatus.DELIVERED)
    accepted, deleted = list_rows(service)
    with pytest.raises(DeliveryNotRepeatableError, match=f"{job.image_id} was deleted"):
        repeat_delivery(service, accepted["delivery_id"], None)
    assert repeat_delivery(service, deleted["delivery_id"], None)

    for unknown in (job.job_id, "seven"):
        with pytest.raises((UnknownDeliveryError, InvalidIdError)):
            repeat_delivery(service, unknown, None)
    remove_endpoint(service, "shop", ignore)
    with pytest.raises(UnknownDeliveryError, match="was removed"):
        repeat_delivery(service, accepted["delivery_id"], None)


@pytest.mark.parametrize("status", DeliveryStatus)
def test_deliveries_are_listed_in_pages(
    service: Service, submit_image: Submit, status: DeliveryStatus
) -> None:
    """Each once, even if several ended, or are due, at the same moment."""
    add(service)
    add(service, "other")
    for _ in range(7):
        submit_image()
    if status is not DeliveryStatus.WAITING:
        end_deliveries(service, status)
    moment = "next_attempt_at" if status is DeliveryStatus.WAITING else "ended_at"
    rows = list_rows(service)
    with service.database.write() as connection:
        same = {moment: rows[2][moment]}
        ids = [row["delivery_id"] for row in rows[2:6]]
        changed = webhook_deliveries.update().where(webhook_deliveries.c.delivery_id.in_(ids))
        connection.execute(changed.values(same))
    rows = sorted(list_rows(service), key=lambda row: (row[moment], row["delivery_id"]))
    if status is not DeliveryStatus.WAITING:
        rows.reverse()
    expected = [row["delivery_id"] for row in rows]

    for limit in (1, 2, 3, 7, 8):
        found: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = list_deliveries_page(service, "shop", status, limit, cursor)
            assert 0 < len(page) <= limit
            found += [delivery["delivery_id"] for delivery in page]
            if cursor is None:
                break
        assert found == expected
    for other in set(DeliveryStatus) - {status}:
        assert list_deliveries_page(service, "shop", other, 9) == ([], None)
    with pytest.raises(InvalidCursorError):
        list_deliveries_page(service, "shop", status, 9, "7")


def test_progress_is_reported_and_what_is_sent_meanwhile_is_not_sent_twice(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    for _ in range(5):
        submit_image()
    end_deliveries(service, DeliveryStatus.FAILED)
    reported = []

    def send_at_once(what: str, count: int) -> None:
        reported.append((what, count))
        end_deliveries(service, DeliveryStatus.DELIVERED)

    replay(service, "shop", LONG_AGO, send_at_once)
    assert reported[0] == ("deliveries repeated", 2)
    assert max(count for _, count in reported) <= 5
