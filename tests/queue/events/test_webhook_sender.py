from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.database.tables import webhook_deliveries, webhook_endpoints
from imageprocessor.queue.events import webhook_sender
from imageprocessor.queue.events.webhook_request import make_secret
from imageprocessor.queue.events.webhook_sender import WebhookSender
from imageprocessor.queue.jobs import webhook_deliveries as jobs_deliveries
from imageprocessor.queue.jobs.webhook_schedule import Schedule
from imageprocessor.queue.jobs.webhooks import Endpoint, enable_endpoint, find_endpoint
from imageprocessor.queue.metrics.counts import Counts, read_totals
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from tests.images import encode, photo
from tests.queue.conftest import Submit
from tests.servers.processes import wait_for
from tests.servers.webhook_receiver import Answer, ReceivedRequest, WebhookReceiver

FAST = Schedule(
    pauses=(timedelta(milliseconds=20),) * 9,
    shortest_probe_pause=timedelta(milliseconds=20),
    longest_probe_pause=timedelta(milliseconds=50),
)
DUE_AT_ONCE = timedelta(0)
MINUTE = timedelta(minutes=1)

#: for what does not depend on the database
one_database = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

SetClock = Callable[[timedelta], None]


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@contextmanager
def sending(service: Service, schedule: Schedule | None = None) -> Iterator[WebhookSender]:
    """Run a sender during the body; it must end within 20 s after that."""
    sender = WebhookSender(service, schedule)
    thread = threading.Thread(target=sender.run, daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop()
        thread.join(20)
    assert not thread.is_alive()


def add_endpoint(service: Service, url: str, name: str = "shop", **fields: Any) -> Endpoint:
    endpoint = Endpoint(
        name=name,
        url=url,
        secret=make_secret(),
        created_at=clock.utc_now(),
        allows_private=True,
        **fields,
    )
    with service.database.write() as connection:
        connection.execute(insert(webhook_endpoints).values(endpoint.to_row()))
    return endpoint


def add_deliveries(
    service: Service,
    count: int,
    endpoint: str = "shop",
    due: Callable[[int], timedelta] = lambda number: timedelta(milliseconds=number - 1000),
) -> list[str]:
    """Add deliveries that are *due* relative to now; return the ids of their events, in order."""
    now = clock.utc_now()
    rows = [
        {
            "delivery_id": make_id(),
            "endpoint": endpoint,
            "event_id": f"event-{endpoint}-{number}",
            "event_type": "image.completed",
            "image_id": make_id(),
            "job_id": make_id(),
            "body": json.dumps({"number": number}),
            "status": "waiting",
            "attempt_count": 0,
            "next_attempt_at": clock.to_text(now + due(number)),
            "created_at": clock.to_text(now + due(number)),
        }
        for number in range(count)
    ]
    with service.database.write() as connection:
        connection.execute(insert(webhook_deliveries), random.sample(rows, count))
    return [str(row["event_id"]) for row in rows]


def list_deliveries(service: Service, **columns: Any) -> list[dict[str, Any]]:
    """Return the deliveries whose columns are as given, by event."""
    query = select(webhook_deliveries).filter_by(**columns)
    with service.database.read() as connection:
        rows = connection.execute(query.order_by(webhook_deliveries.c.event_id)).mappings()
        return [dict(row) for row in rows]


def count_tries(service: Service) -> int:
    return sum(row["attempt_count"] for row in list_deliveries(service))


def has_tried(service: Service, count: int) -> bool:
    return count_tries(service) >= count


def read_endpoint(service: Service, name: str = "shop") -> Endpoint:
    with service.database.read() as connection:
        endpoint = find_endpoint(connection, name)
    assert endpoint
    return endpoint


def ids(requests: list[ReceivedRequest]) -> list[str]:
    return [request.headers["webhook-id"] for request in requests]


def wait_until_all_are_delivered(service: Service) -> None:
    wait_for(lambda: not list_deliveries(service, status="waiting"), 30)
    assert {row["status"] for row in list_deliveries(service)} == {"delivered"}


def test_webhooks_of_a_job_arrive_signed_and_once(
    service: Service, submit_image: Submit, receiver: WebhookReceiver
) -> None:
    endpoint = add_endpoint(service, f"{receiver.url}?token=hidden")
    with capture_logs() as lines, sending(service):
        job = submit_image()
        run_job(service, job.job_id, "worker")
        requests = receiver.wait_for(2, 20)
        wait_until_all_are_delivered(service)
    bodies = [json.loads(request.body) for request in requests]
    assert {body["type"] for body in bodies} == {"image.accepted", "image.completed"}
    assert [body["id"] for body in bodies] == ids(requests)
    for request in requests:
        Webhook(endpoint.secret).verify(request.body, dict(request.headers))
    tried = [line for line in lines if line["event"] == "webhook_tried"]
    assert [(line["endpoint"], line["status"]) for line in tried] == [("shop", 200)] * 2
    assert endpoint.secret not in str(lines)
    assert "hidden" not in str(lines)


@one_database
def test_endpoint_added_while_there_was_none_is_served_within_five_seconds(
    service: Service, receiver: WebhookReceiver
) -> None:
    with sending(service):
        time.sleep(0.1)
        add_endpoint(service, receiver.url)
        add_deliveries(service, 1)
        receiver.wait_for(1, 5)


@one_database
def test_each_try_has_the_same_id_and_body(service: Service, receiver: WebhookReceiver) -> None:
    add_endpoint(service, receiver.url)
    answers = iter([Answer(500), Answer(resets=True), Answer(302, {"Location": "/"}), Answer(204)])
    receiver.answer = lambda _: next(answers)
    (event_id,) = add_deliveries(service, 1)
    with sending(service, FAST):
        requests = receiver.wait_for(4, 20)
        wait_until_all_are_delivered(service)
    assert ids(requests) == [event_id] * 4
    assert len({request.body for request in requests}) == 1
    (delivery,) = list_deliveries(service)
    assert (delivery["attempt_count"], delivery["last_status_code"]) == (4, 204)


@one_database
def test_tries_are_counted_by_outcome(
    service: Service, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    add_endpoint(service, receiver.url)
    receiver.answer = lambda request: Answer(200 if b"0" in request.body else 500)
    add_deliveries(service, 2)
    counts = Counts(tmp_path / "counts")
    with sending(replace(service, counts=counts), replace(FAST, pauses=FAST.pauses[:2])):
        wait_for(lambda: not list_deliveries(service, status="waiting"), 20)
    counts.close()
    totals = {series: number for (series, _), [number] in read_totals(tmp_path / "counts").items()}
    outcomes = {"delivered": 1.0, "retrying": 2.0, "failed": 1.0}
    assert totals == {("deliveries", outcome): count for outcome, count in outcomes.items()}


@one_database
def test_delivery_is_tried_ten_times_over_three_days(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url)
    receiver.answer = lambda _: Answer(500)
    add_deliveries(service, 1, due=lambda _: DUE_AT_ONCE)
    passed = timedelta(0)
    with sending(service):
        for attempt, pause in enumerate(Schedule().pauses, 1):
            wait_for(partial(has_failed, service, attempt), 20)
            (delivery,) = list_deliveries(service)
            assert delivery["status"] == "waiting"
            tried_at = clock.from_text(delivery["attempted_at"])
            waits = clock.from_text(delivery["next_attempt_at"]) - tried_at
            assert 0.8 * pause <= waits <= 1.2 * pause + timedelta(seconds=2)
            set_clock(passed + waits - timedelta(seconds=2))
            assert len(receiver.requests) == attempt  # not before it is due
            passed += waits + timedelta(seconds=1)
            set_clock(passed)
        wait_for(lambda: list_deliveries(service, status="failed"), 20)
    (delivery,) = list_deliveries(service)
    assert (delivery["attempt_count"], delivery["last_error"]) == (10, "answered 500")
    assert delivery["ended_at"]


def has_failed(service: Service, attempt: int) -> bool:
    (delivery,) = list_deliveries(service)
    return delivery["attempt_count"] == attempt and delivery["lease_token"] is None


@one_database
def test_receiver_that_asks_for_a_pause_gets_it(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url)
    receiver.answer = lambda _: Answer(429, {"Retry-After": "100"})
    add_deliveries(service, 1)
    with sending(service):
        wait_for(lambda: has_failed(service, 1), 20)
        add_deliveries_of_another_event(service)
        receiver.answer = lambda _: Answer()
        set_clock(timedelta(seconds=95))
        time.sleep(0.3)
        assert len(receiver.requests) == 1
        set_clock(timedelta(seconds=102))
        wait_until_all_are_delivered(service)
    assert len(receiver.requests) == 3


def add_deliveries_of_another_event(service: Service) -> None:
    now = clock.to_text(clock.utc_now())
    (row,) = list_deliveries(service)
    other = {
        **row,
        "delivery_id": make_id(),
        "event_id": "event-other",
        "attempt_count": 0,
        "attempted_at": None,
        "next_attempt_at": now,
        "created_at": now,
    }
    with service.database.write() as connection:
        connection.execute(insert(webhook_deliveries).values(other))


@one_database
def test_410_disables_and_deliveries_wait_until_the_endpoint_is_enabled(
    service: Service,
    receiver: WebhookReceiver,
    set_clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook_sender, "LOOK_SECONDS", 0.1)
    add_endpoint(service, receiver.url)
    receiver.answer = lambda _: Answer(410)
    add_deliveries(service, 20)
    with capture_logs() as lines, sending(service):
        wait_for(lambda: read_endpoint(service).disabled_at, 20)
        wait_for(lambda: not [row for row in list_deliveries(service) if row["lease_token"]], 20)
        assert read_endpoint(service).disabled_reason == "The receiver answered 410 Gone."
        tried = len(receiver.requests)
        assert tried <= webhook_sender.TRIES_PER_ENDPOINT
        set_clock(MINUTE)
        time.sleep(0.2)
        assert len(receiver.requests) == tried
        receiver.answer = lambda _: Answer()
        with service.database.write() as connection:
            enable_endpoint(connection, "shop")
        wait_until_all_are_delivered(service)
    assert len(receiver.requests) == 20 + tried
    assert [line["event"] for line in lines].count("webhook_endpoint_disabled") == 1


def test_failing_endpoint_is_probed_by_one_delivery_and_then_drains(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url)
    receiver.answer = lambda _: Answer(503)
    events = add_deliveries(service, 40)
    at_first = webhook_sender.TRIES_PER_ENDPOINT
    with sending(service):
        wait_for(lambda: read_endpoint(service).next_probe_at, 20)
        wait_for(lambda: not [row for row in list_deliveries(service) if row["lease_token"]], 20)
        assert count_tries(service) == at_first
        for number, minutes in enumerate((1, 4, 12), 1):  # pauses grow
            set_clock(minutes * MINUTE)
            receiver.wait_for(at_first + number, 20)
            time.sleep(0.2)
            assert count_tries(service) == at_first + number
        # Each probe is by the delivery that is due first.
        assert ids(receiver.requests)[at_first:] == events[at_first : at_first + 3]
        receiver.answer = lambda _: Answer()
        set_clock(30 * MINUTE)
        wait_until_all_are_delivered(service)
    assert read_endpoint(service).failing_since is None
    assert read_endpoint(service).next_probe_at is None


def test_delivery_that_is_always_refused_delays_no_other(
    service: Service, receiver: WebhookReceiver
) -> None:
    add_endpoint(service, receiver.url)
    events = add_deliveries(service, 60)
    refused = {events[0], events[30]}
    receiver.answer = lambda request: refuse(request, refused)
    with sending(service):  # pauses are 5 s at least
        wait_for(lambda: len(list_deliveries(service, status="delivered")) == 58, 4)
        assert read_endpoint(service).next_probe_at is None
        assert {row["event_id"] for row in list_deliveries(service, status="waiting")} == refused
        # Tried alone, it does not make the endpoint fail either.
        add_endpoint(service, receiver.url, "other")
    only = replace(FAST, pauses=(timedelta(milliseconds=1),) * 100)
    with sending(service, only):
        receiver.answer = lambda _: Answer(400)
        add_deliveries(service, 1, "other")
        wait_for(lambda: list_deliveries(service, endpoint="other")[0]["attempt_count"] > 5, 20)
    assert read_endpoint(service, "other").failing_since
    assert read_endpoint(service, "other").next_probe_at is None


def refuse(request: ReceivedRequest, event_ids: set[str]) -> Answer:
    return Answer(400 if request.headers["webhook-id"] in event_ids else 200)


def test_refused_delivery_at_the_head_does_not_block_the_probe(
    service: Service, receiver: WebhookReceiver
) -> None:
    add_endpoint(
        service, receiver.url, failing_since=clock.utc_now(), next_probe_at=clock.utc_now()
    )
    refused, *others = add_deliveries(service, 5)
    receiver.answer = lambda request: refuse(request, {refused})
    slow_retries = replace(FAST, pauses=Schedule().pauses)
    with sending(service, slow_retries):
        wait_for(lambda: len(list_deliveries(service, status="delivered")) == 4, 4)
    assert ids(receiver.requests)[0] == refused
    assert ids(receiver.requests)[1] == others[0]


@one_database
def test_endpoint_that_failed_for_five_days_is_disabled(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url)
    receiver.answer = lambda _: Answer(500)
    add_deliveries(service, 2)
    tries = 0
    with capture_logs() as lines, sending(service):
        for days in (0, 4.9, 5.1):
            assert read_endpoint(service).disabled_at is None
            set_clock(timedelta(days=days))
            wait_for(partial(has_tried, service, tries + 1), 20)
            wait_for(lambda: not any(row["lease_token"] for row in list_deliveries(service)), 20)
            tries = count_tries(service)
    assert read_endpoint(service).disabled_reason == "Every try has failed for 5 days."
    assert {row["status"] for row in list_deliveries(service)} == {"waiting"}
    (line,) = [line for line in lines if line["event"] == "webhook_endpoint_disabled"]
    assert line["log_level"] == "warning"


@one_database
def test_two_failures_within_five_days_of_silence_disable_nothing(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url, failing_since=clock.utc_now())
    receiver.answer = lambda _: Answer(500)
    set_clock(timedelta(days=30))
    add_deliveries(service, 1)
    with sending(service, FAST):
        wait_for(lambda: count_tries(service) > 2, 20)
    assert read_endpoint(service).disabled_at is None


@one_database
def test_receiver_that_hangs_delays_no_other(
    service: Service, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "STOP_WITHIN_SECONDS", 0.1)
    with WebhookReceiver(lambda _: Answer(delay_seconds=60)) as hanging:
        add_endpoint(service, hanging.url, "hanging")
        add_endpoint(service, receiver.url, "good")
        add_deliveries(service, 50, "hanging")
        add_deliveries(service, 50, "good")
        with sending(service):
            wait_for(lambda: len(list_deliveries(service, status="delivered")) == 50, 10)
            assert hanging.connections == webhook_sender.TRIES_PER_ENDPOINT
    assert not list_deliveries(service, status="delivered", endpoint="hanging")


@one_database
def test_threads_are_shared_by_many_endpoints_that_hang(
    service: Service, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "TRIES", 6)
    monkeypatch.setattr(webhook_sender, "STOP_WITHIN_SECONDS", 0.1)
    with WebhookReceiver(lambda _: Answer(delay_seconds=60)) as hanging:
        for number in range(5):
            add_endpoint(service, hanging.url, f"hanging-{number}")
            add_deliveries(service, 5, f"hanging-{number}")
        add_endpoint(service, receiver.url, "good")
        add_deliveries(service, 5, "good")
        with sending(service):
            receiver.wait_for(5, 10)
            assert hanging.connections == 5


def test_stop_releases_a_running_try_uncounted(
    service: Service, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "STOP_WITHIN_SECONDS", 0.1)
    receiver.answer = lambda _: Answer(delay_seconds=60)
    add_endpoint(service, receiver.url)
    add_deliveries(service, 1)
    (before,) = list_deliveries(service)
    with sending(service):
        wait_for(lambda: receiver.connections, 10)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 5
    (after,) = list_deliveries(service)
    assert after["attempt_count"] == 0
    assert after["next_attempt_at"] == before["next_attempt_at"]


@one_database
def test_running_try_is_recorded_before_the_sender_stops(
    service: Service, receiver: WebhookReceiver
) -> None:
    receiver.answer = lambda _: Answer(delay_seconds=0.3)
    add_endpoint(service, receiver.url)
    add_deliveries(service, 1)
    with sending(service):
        wait_for(lambda: receiver.connections, 10)
    assert list_deliveries(service, status="delivered")


def run_sender(settings: Settings) -> None:
    """Run a sender in a process of its own."""
    with open_service(settings) as service:
        WebhookSender(service).run()


@one_database
def test_delivery_of_a_killed_sender_is_sent_by_another(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    add_endpoint(service, receiver.url)
    add_deliveries(service, 1)
    receiver.answer = lambda _: Answer(delay_seconds=60)
    killed = multiprocessing.get_context("spawn").Process(
        target=run_sender, args=[service.settings]
    )
    killed.start()
    wait_for(lambda: receiver.connections, 30)
    killed.kill()
    killed.join()
    receiver.answer = lambda _: Answer()
    with sending(service):
        set_clock(timedelta(seconds=50))
        time.sleep(0.2)
        assert receiver.connections == 1  # its claim has not expired
        set_clock(timedelta(seconds=61))
        wait_until_all_are_delivered(service)
    (delivery,) = list_deliveries(service)
    assert delivery["attempt_count"] == 2
    assert set(ids(receiver.requests)) == {delivery["event_id"]}


def test_two_senders_send_nothing_twice(service: Service, receiver: WebhookReceiver) -> None:
    add_endpoint(service, receiver.url)
    events = add_deliveries(service, 100)
    with open_service(service.settings) as other, sending(service), sending(other):
        wait_until_all_are_delivered(service)
    assert Counter(ids(receiver.requests)) == Counter(events)


def test_backlog_of_an_hour_drains_in_order_of_due_time(
    service: Service, receiver: WebhookReceiver
) -> None:
    hour_ago = clock.utc_now() - timedelta(hours=1)
    add_endpoint(service, receiver.url, failing_since=hour_ago, next_probe_at=hour_ago)
    events = add_deliveries(
        service, 150, due=lambda number: timedelta(seconds=24 * number) - timedelta(hours=1)
    )
    with sending(service):
        wait_until_all_are_delivered(service)
    position = {event_id: number for number, event_id in enumerate(events)}
    arrived = [position[event_id] for event_id in ids(receiver.requests)]
    # As many as are sent side by side may overtake each other.
    late_by = [abs(number - place) for place, number in enumerate(arrived)]
    assert max(late_by) < 2 * webhook_sender.TRIES_PER_ENDPOINT
    assert arrived[0] == 0  # the probe


@one_database
def test_both_secrets_sign_until_the_old_one_expires(
    service: Service, receiver: WebhookReceiver, set_clock: SetClock
) -> None:
    old = make_secret()
    expires_at = clock.utc_now() + timedelta(seconds=30)
    new = add_endpoint(
        service, receiver.url, previous_secret=old, previous_secret_expires_at=expires_at
    ).secret
    with sending(service):
        add_deliveries(service, 1)
        (first,) = receiver.wait_for(1, 20)
        set_clock(MINUTE)
        add_deliveries_of_another_event(service)
        _, second = receiver.wait_for(2, 20)
    for secret in (old, new):
        Webhook(secret).verify(first.body, dict(first.headers))
    Webhook(new).verify(second.body, dict(second.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(second.body, dict(second.headers))


@one_database
def test_sender_goes_on_after_the_database_was_away(
    service: Service, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "FAULT_PAUSE_SECONDS", 0.05)
    add_endpoint(service, receiver.url)
    add_deliveries(service, 3)
    is_away = threading.Event()
    mark_delivered: Callable[..., bool] = jobs_deliveries.mark_delivered

    def fail_while_away(*arguments: Any) -> bool:
        if is_away.is_set():
            raise DatabaseUnavailableError("The database is unavailable.")
        return mark_delivered(*arguments)

    monkeypatch.setattr(jobs_deliveries, "mark_delivered", fail_while_away)
    is_away.set()
    with capture_logs() as lines, sending(service):
        receiver.wait_for(3, 20)
        time.sleep(0.5)
        assert not list_deliveries(service, status="delivered")
        is_away.clear()
        wait_until_all_are_delivered(service)
    assert len(receiver.requests) == 3  # what was sent is recorded later, not sent again
    assert [line["event"] for line in lines].count("webhooks_interrupted") == 1


@one_database
def test_the_handler_of_the_first_specification_works_unchanged(
    service: Service, submit_image: Submit, receiver: WebhookReceiver
) -> None:
    updated: dict[str, dict[str, str]] = {}

    def update_activity_images(image_id: str, urls: dict[str, str]) -> None:
        updated[image_id] = urls

    def image_processor_webhook(payload: dict[str, Any]) -> None:
        if payload["status"] == "completed":
            update_activity_images(image_id=payload["image_id"], urls=payload["urls"])

    add_endpoint(service, receiver.url, event_types=("image.completed", "image.failed"))
    good, bad = submit_image(), submit_image(encode(photo(80, 60), "JPEG")[:-200])
    for job in (good, bad):
        run_job(service, job.job_id, "worker")
    with sending(service):
        requests = receiver.wait_for(2, 20)
    payloads = [json.loads(request.body) for request in requests]
    for payload in payloads:
        image_processor_webhook(payload)
    assert {payload["status"] for payload in payloads} == {"completed", "failed"}
    assert set(updated) == {good.image_id}
    assert set(updated[good.image_id]) == {"thumbnail", "medium"}
