from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook

from imageprocessor.errors import (
    ImageProcessorError,
    InvalidWebhookError,
    SettingsError,
    UnknownWebhookError,
)
from imageprocessor.queue import webhooks
from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import IS_TO_SEND, webhook_deliveries
from imageprocessor.queue.jobs import webhook_history
from imageprocessor.queue.jobs.webhooks import DeliveryStatus, Endpoint
from imageprocessor.queue.maintenance.progress import ignore
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import collect_statistics
from imageprocessor.queue.webhooks import (
    EVENT_TYPES,
    add_endpoint,
    apply_settings,
    disable_endpoint,
    enable_endpoint,
    list_states,
    read_endpoint,
    read_state,
    remove_endpoint,
    rotate_secret,
    send_test,
)
from imageprocessor.settings import Settings
from tests.queue.conftest import Submit, with_settings
from tests.servers.webhook_receiver import Answer, WebhookReceiver

SECRETS = [f"whsec_{letter * 40}" for letter in "abc"]
PUBLIC, PRIVATE = "93.184.215.14", "10.0.0.1"


def add(service: Service, name: str = "shop", **options: object) -> Endpoint:
    """Add an endpoint whose host has a public address, without asking a DNS server."""
    url = "https://shop.example.com/hooks"
    return add_endpoint(service, name, url, resolve=lambda _: [PUBLIC], **options)  # type: ignore[arg-type]


def with_webhook(service: Service, url: str | None, secret: str | None = SECRETS[0]) -> Service:
    values = {"webhook_url": url, "webhook_secret": secret}
    checked = Settings.model_validate(values)
    return with_settings(service, **{name: getattr(checked, name) for name in values})


def end_deliveries(service: Service, status: DeliveryStatus) -> None:
    """End everything that waits, one delivery after another."""
    ids = select(webhook_deliveries.c.delivery_id).where(IS_TO_SEND)
    with service.database.write() as connection:
        for delivery_id in connection.scalars(ids).all():
            values: dict[str, Any] = {"status": status, "attempt_count": 3, "next_attempt_at": None}
            values["ended_at"] = clock.to_text(clock.utc_now())
            is_this = webhook_deliveries.c.delivery_id == delivery_id
            connection.execute(update(webhook_deliveries).where(is_this).values(values))


def test_added_endpoint_gets_the_events_that_it_asks_for(
    service: Service, submit_image: Submit
) -> None:
    all_events = add(service, "all")
    add(service, "photos", buckets=["photos"], event_types=["image.accepted", "image.failed"])
    add(service, "other-bucket", buckets=["paintings"])
    add(service, "other-events", event_types=["image.completed"])
    add(service, "named", only_named=True)
    submit_image()
    waiting = {state.endpoint.name: state.waiting for state in list_states(service)}
    assert waiting == {
        "all": 1, "photos": 1, "other-bucket": 0, "other-events": 0, "named": 0
    }  # fmt: skip
    assert read_endpoint(service, "all") == all_events
    assert all_events.secret.startswith("whsec_")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "Shop"}, "webhook_invalid"),
    "long name": ({"name": "x" * 64}, "webhook_invalid"),
    "reserved name": ({"name": "default"}, "webhook_invalid"),
    "event type": ({"event_types": ["image.eaten"]}, "webhook_invalid"),
    "bucket": ({"buckets": ["../etc"]}, "bucket_invalid"),
    "foreign bucket": ({"buckets": ["others"]}, "bucket_invalid"),
    "http": ({"url": "http://shop.example.com/"}, "webhook_url_invalid"),
    "private address": ({"resolve": lambda _: [PUBLIC, PRIVATE]}, "webhook_url_invalid"),
    "credentials": ({"url": "https://me:pw@shop.example.com/"}, "webhook_url_invalid"),
    "fragment": ({"url": "https://shop.example.com/#top"}, "webhook_url_invalid"),
    "3 kB": ({"url": "https://shop.example.com/" + "x" * 3000}, "webhook_url_invalid"),
}  # fmt: skip


def test_unusable_endpoint_is_refused(service: Service) -> None:
    service = with_settings(service, allowed_buckets=("photos",))
    good: dict[str, Any] = {"resolve": lambda _: [PUBLIC]}
    good |= {"name": "shop", "url": "https://shop.example.com/"}
    for case, (changes, code) in REFUSED.items():
        with pytest.raises(ImageProcessorError) as caught:
            add_endpoint(service, **(good | changes))
        assert (case, caught.value.code) == (case, code)
    assert list_states(service) == []


def test_unknown_event_type_is_answered_with_the_known_ones(service: Service) -> None:
    with pytest.raises(InvalidWebhookError) as caught:
        add(service, event_types=["image.eaten"])
    assert all(event_type in str(caught.value) for event_type in EVENT_TYPES)


def test_name_is_taken_only_once(service: Service) -> None:
    first = add(service)
    with pytest.raises(InvalidWebhookError, match="already"):
        add(service)
    assert read_endpoint(service, "shop").secret == first.secret


def test_unknown_endpoint_is_reported_as_such(service: Service) -> None:
    for name in ("nobody", "sh\0p", "x" * 9999):
        for use in (read_state, send_test, rotate_secret, enable_endpoint):
            with pytest.raises(UnknownWebhookError):
                use(service, name)
        with pytest.raises(UnknownWebhookError):
            remove_endpoint(service, name, ignore)


def test_test_event_is_signed_and_neither_stored_nor_tried_again(service: Service) -> None:
    with WebhookReceiver() as receiver:
        endpoint = add_endpoint(service, "shop", receiver.url, allows_private=True)
        disable_endpoint(service, "shop", "test")
        assert send_test(service, "shop").succeeded
        rotated = rotate_secret(service, "shop")
        receiver.answer = lambda _: Answer(500)
        reply = send_test(service, "shop")
        first, second = receiver.requests
    assert (reply.status, reply.succeeded) == (500, False)
    assert rotated.secret != endpoint.secret
    for request, secrets in (
        (first, [endpoint.secret]),
        (second, [endpoint.secret, rotated.secret]),
    ):
        for secret in secrets:
            event = Webhook(secret).verify(request.body, dict(request.headers))
            assert event["type"] == "webhook.test"
            assert event["id"] == request.headers["webhook-id"]
    assert read_state(service, "shop").waiting == 0
    assert read_endpoint(service, "shop").failing_since is None


def test_old_secret_signs_for_a_day_after_a_rotation(service: Service) -> None:
    old, now = add(service).secret, clock.utc_now()
    rotated = rotate_secret(service, "shop")
    assert rotated.list_secrets(now) == [rotated.secret, old]
    assert rotated.list_secrets(now + timedelta(hours=23, minutes=59)) == [rotated.secret, old]
    assert rotated.list_secrets(now + timedelta(hours=24, minutes=1)) == [rotated.secret]


def test_disabled_endpoint_keeps_its_events_until_it_is_enabled(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    submit_image()
    assert disable_endpoint(service, "shop", "holiday", by="root")
    assert not disable_endpoint(service, "shop", "again", by="root")
    submit_image()
    state = read_state(service, "shop")
    assert (state.name, state.waiting, state.endpoint.disabled_reason) == ("disabled", 2, "holiday")
    assert enable_endpoint(service, "shop") == 2
    enabled, disabled = list_actions(service, 9)
    assert (disabled["event_type"], disabled["metadata"]) == (
        "webhook_disabled",
        {"by": "root", "endpoint": "shop", "reason": "holiday"},
    )
    assert (enabled["event_type"], enabled["metadata"]) == (
        "webhook_enabled",
        {"by": None, "endpoint": "shop", "waiting": 2},
    )
    assert read_state(service, "shop").name == "ok"


def test_removed_endpoint_drops_what_waits_and_keeps_what_ended(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELIVERIES_PER_DELETE", 2)
    add(service, "other")
    add(service)
    sent = submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    for _ in range(5):
        submit_image()
    reported: list[int] = []
    assert remove_endpoint(service, "shop", lambda _, number: reported.append(number)) == 5
    assert reported == [2, 4]
    assert [(state.endpoint.name, state.waiting) for state in list_states(service)] == [
        ("other", 5)
    ]
    kept = webhooks.list_job_deliveries(service, sent.job_id)
    assert [(delivery["endpoint"], delivery["status"]) for delivery in kept] == [
        ("other", "delivered"),
        ("shop", "delivered"),
    ]


def test_state_shows_the_last_success_and_the_oldest_event_that_waits(
    service: Service, submit_image: Submit
) -> None:
    add(service)
    before = clock.utc_now()
    submit_image()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    middle = clock.utc_now()
    first, second = submit_image(), submit_image()
    state = read_state(service, "shop")
    assert state.last_success
    assert before < state.last_success < middle
    assert state.oldest_waiting == first.created_at
    shown = webhooks.list_deliveries(service, "shop", 2)
    assert [delivery["job_id"] for delivery in shown[:2]] == [first.job_id, second.job_id]
    assert shown[2]["status"] == "delivered"
    assert "body" not in shown[0]


def test_statistics_count_endpoints_and_what_waits(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(service)
    add(service, "off")
    disable_endpoint(service, "off", "test")
    for _ in range(3):
        submit_image()
    found = collect_statistics(service)["webhooks"]
    assert found.pop("oldest_waiting_seconds") > 0
    assert found == {"endpoints": 2, "disabled": 1, "failing": 0, "waiting": 6}
    monkeypatch.setattr(webhook_history, "MAX_COUNTED", 4)
    assert collect_statistics(service)["webhooks"]["waiting"] == 4


def test_webhook_of_the_settings_is_stored_once_and_follows_them(service: Service) -> None:
    configured = with_webhook(service, "http://10.0.0.7/hooks")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apply_settings, [configured] * 4))
    stored = read_endpoint(service, "default")
    assert (stored.url, stored.secret) == ("http://10.0.0.7/hooks", SECRETS[0])
    assert (stored.from_settings, stored.allows_private) == (True, True)

    apply_settings(configured)
    assert read_endpoint(service, "default") == stored, "unchanged settings change nothing"

    apply_settings(with_webhook(service, "http://10.0.0.7/hooks", SECRETS[1]))
    rotated = read_endpoint(service, "default")
    assert rotated.list_secrets(clock.utc_now()) == [SECRETS[1], SECRETS[0]]

    disable_endpoint(service, "default", "it failed")
    apply_settings(with_webhook(service, "http://10.0.0.7/hooks", SECRETS[1]))
    assert read_endpoint(service, "default").disabled_at, "a restart alone does not enable it"
    apply_settings(with_webhook(service, "http://10.0.0.8/hooks", SECRETS[1]))
    moved = read_endpoint(service, "default")
    assert (moved.url, moved.disabled_at) == ("http://10.0.0.8/hooks", None)


def test_events_wait_while_webhook_url_is_unset(service: Service, submit_image: Submit) -> None:
    configured = with_webhook(service, "http://10.0.0.7/hooks")
    apply_settings(configured)
    apply_settings(service)
    submit_image()
    state = read_state(service, "default")
    assert (state.name, state.waiting) == ("disabled", 1)
    with pytest.raises(InvalidWebhookError, match="WEBHOOK_URL is no longer set"):
        enable_endpoint(service, "default")
    apply_settings(configured)
    state = read_state(service, "default")
    assert (state.name, state.waiting) == ("ok", 1)
    apply_settings(service)
    assert remove_endpoint(service, "default", ignore) == 1
    assert list_states(service) == []


def test_endpoint_of_the_settings_is_changed_only_there(service: Service) -> None:
    configured = with_webhook(service, "http://10.0.0.7/hooks")
    apply_settings(configured)
    with pytest.raises(InvalidWebhookError, match="WEBHOOK_SECRET"):
        rotate_secret(configured, "default")
    with pytest.raises(InvalidWebhookError, match="Unset that"):
        remove_endpoint(configured, "default", ignore)
    assert disable_endpoint(configured, "default", "test")
    enable_endpoint(configured, "default")
    assert read_state(configured, "default").name == "ok"


def test_webhook_url_that_cannot_be_used_stops_the_start(service: Service) -> None:
    with pytest.raises(SettingsError, match="WEBHOOK_URL cannot be used"):
        apply_settings(with_webhook(service, "http://10.0.0.7:99999/"))
