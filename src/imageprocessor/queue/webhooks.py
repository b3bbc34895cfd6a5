"""Managing webhook endpoints: the receivers of events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from imageprocessor.errors import (
    DeliveryNotRepeatableError,
    InvalidBucketError,
    InvalidWebhookError,
    InvalidWebhookUrlError,
    SettingsError,
    UnknownDeliveryError,
    UnknownWebhookError,
)
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.ids import make_id
from imageprocessor.queue.events.webhook_address import Resolve, check_url, resolve_host
from imageprocessor.queue.events.webhook_request import Reply, make_secret, send
from imageprocessor.queue.job_control import parse_id
from imageprocessor.queue.jobs import outbox, webhook_history, webhooks
from imageprocessor.queue.jobs.description import PUBLIC_TYPES
from imageprocessor.queue.jobs.job import EventType
from imageprocessor.queue.jobs.place import Place
from imageprocessor.queue.jobs.webhooks import ENDPOINT_NAME, DeliveryStatus, Endpoint
from imageprocessor.queue.service import Service
from imageprocessor.storage.keys import check_bucket

CONFIGURED = "default"  #: the name of the endpoint of WEBHOOK_URL
URL_UNSET = "WEBHOOK_URL is no longer set"
EVENT_TYPES = tuple(PUBLIC_TYPES.values())
TEST_TYPE = "webhook.test"
DELIVERIES_PER_DELETE = 1000  #: in one transaction, while SQLite's other writers wait

Report = Callable[[str, int], None]  #: called with what is counted, and how many there are so far

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint, and how it fares."""

    endpoint: Endpoint
    waiting: int  #: deliveries; see `webhook_history.MAX_COUNTED`
    oldest_waiting: datetime | None  #: when its event happened
    last_success: datetime | None

    @property
    def name(self) -> str:
        """``disabled``, ``failing`` or ``ok``."""
        if self.endpoint.disabled_at:
            return "disabled"
        return "failing" if self.endpoint.is_failing else "ok"


def list_states(service: Service) -> list[EndpointState]:
    """Return all endpoints, by name, and how they fare."""
    with service.database.read() as connection:
        endpoints = webhooks.list_endpoints(connection)
    return [_read_state(service, endpoint) for endpoint in endpoints]


def read_state(service: Service, name: str) -> EndpointState:
    """Return an endpoint, and how it fares; raise UnknownWebhookError if there is none."""
    return _read_state(service, read_endpoint(service, name))


def _read_state(service: Service, endpoint: Endpoint) -> EndpointState:
    name = endpoint.name
    with service.database.read() as connection:
        return EndpointState(
            endpoint,
            webhook_history.count_waiting(connection, name),
            webhook_history.find_oldest_waiting(connection, name),
            webhook_history.find_last_success(connection, name),
        )


def read_endpoint(service: Service, name: str) -> Endpoint:
    """Return an endpoint; raise UnknownWebhookError if there is none with this name."""
    with service.database.read() as connection:
        endpoint = webhooks.find_endpoint(connection, name) if is_name(name) else None
    if endpoint is None:
        raise _unknown(name)
    return endpoint


def list_deliveries(service: Service, name: str, limit: int) -> list[dict[str, Any]]:
    """Return the deliveries that wait for an endpoint and those that ended last."""
    with service.database.read() as connection:
        return [
            *webhook_history.list_waiting(connection, name, limit),
            *webhook_history.list_ended(connection, name, limit),
        ]


def list_deliveries_page(
    service: Service, name: str, status: DeliveryStatus, limit: int, after: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return *limit* deliveries to an endpoint with a status, and the cursor of the next page.

    Those that ended last come first; of those that wait, those that are due first. *after*: the
    cursor of the page before. Without more deliveries, the cursor is None.

    Raises:
        InvalidCursorError: *after* is not a cursor.
    """
    place = Place.parse(after) if after is not None else None
    with service.database.read() as connection:
        found = webhook_history.list_with_status(connection, name, status, limit + 1, place)
    if len(found) <= limit:
        return found, None
    shown = found[:limit]
    return shown, str(webhook_history.place_of(shown[-1]))


def list_job_deliveries(service: Service, job_id: str) -> list[dict[str, Any]]:
    """Return the deliveries of a job's events, oldest first."""
    with service.database.read() as connection:
        return webhook_history.list_of_job(connection, job_id)


def add_endpoint(  # noqa: PLR0913 - named, and each belongs to the endpoint
    service: Service,
    name: str,
    url: str,
    *,
    event_types: Sequence[str] = (),
    buckets: Sequence[str] = (),
    only_named: bool = False,
    allows_private: bool = False,
    resolve: Resolve = resolve_host,
) -> Endpoint:
    """Store an endpoint with a new secret, and return it. No event types or buckets: all.

    Raises:
        InvalidWebhookError: The name is malformed or taken, or an event type is unknown.
        InvalidBucketError: A bucket cannot be that of an upload.
        InvalidWebhookUrlError: Webhooks cannot be sent to *url*.
    """
    if not is_name(name):
        raise InvalidWebhookError(
            f"{name[:80]!r} is not a name of an endpoint. Use 1 to 63 lower-case letters, digits "
            "and hyphens, not beginning with a hyphen."
        )
    if name == CONFIGURED:
        raise InvalidWebhookError(
            f"The name {CONFIGURED!r} is that of the endpoint of WEBHOOK_URL. Choose another, or "
            "set WEBHOOK_URL and WEBHOOK_SECRET."
        )
    for event_type in event_types:
        if event_type not in EVENT_TYPES:
            known = ", ".join(EVENT_TYPES)
            raise InvalidWebhookError(f"There is no event type {event_type[:80]!r}. Known: {known}")
    for bucket in buckets:
        _check_bucket(service, bucket)
    check_url(url, allows_private=allows_private, resolve=resolve)
    endpoint = Endpoint(
        name=name,
        url=url,
        secret=make_secret(),
        created_at=clock.utc_now(),
        event_types=tuple(event_types) or None,
        buckets=tuple(buckets) or None,
        only_named=only_named,
        allows_private=allows_private,
    )
    try:
        with service.database.write() as connection:
            webhooks.insert_endpoint(connection, endpoint)
    except IntegrityError:
        raise InvalidWebhookError(
            f"There is already an endpoint {name!r}. Choose another name, or remove that one."
        ) from None
    log.info("webhook_added", endpoint=name)
    return endpoint


def send_test(service: Service, name: str, resolve: Resolve = resolve_host) -> Reply:
    """Send a signed event of the type ``webhook.test`` to an endpoint now; return the reply.

    It is no delivery: it is neither stored nor tried again.
    """
    endpoint = read_endpoint(service, name)
    now = clock.utc_now()
    event_id = make_id()
    event = {"id": event_id, "type": TEST_TYPE, "timestamp": clock.to_text(now), "endpoint": name}
    return send(
        endpoint.url,
        json.dumps(event).encode(),
        message_id=event_id,
        secrets=endpoint.list_secrets(now),
        moment=now,
        allows_private=endpoint.allows_private,
        resolve=resolve,
        ca_file=service.settings.webhook_ca_file,
    )


def rotate_secret(service: Service, name: str) -> Endpoint:
    """Give an endpoint a new secret, and return it; the one before signs, too, for 24 hours.

    Raises:
        UnknownWebhookError: There is no such endpoint.
        InvalidWebhookError: It is the one of WEBHOOK_URL.
    """
    if read_endpoint(service, name).from_settings:
        raise InvalidWebhookError(
            f"The secret of {name!r} is WEBHOOK_SECRET. Change that setting, and restart the "
            "service: the old secret signs, too, for 24 hours."
        )
    with service.database.write() as connection:
        endpoint = webhooks.lock_endpoint(connection, name)
        if endpoint is None:
            raise _unknown(name)
        webhooks.change_secret(connection, endpoint, make_secret(), clock.utc_now())
    log.info("webhook_rotated", endpoint=name)
    return read_endpoint(service, name)


def disable_endpoint(service: Service, name: str, reason: str, by: str | None = None) -> bool:
    """Stop sending to an endpoint: its deliveries wait. Return False if it is disabled already.

    *by*: see :func:`outbox.add_action`.

    Raises:
        UnknownWebhookError: There is no such endpoint.
    """
    read_endpoint(service, name)
    now = clock.utc_now()
    with service.database.write() as connection:
        changed = webhooks.disable_endpoint(connection, name, reason, now)
        if changed:
            outbox.add_action(
                connection, EventType.WEBHOOK_DISABLED, now, by, endpoint=name, reason=reason
            )
    log.info("webhook_disabled", endpoint=name, reason=reason)
    return changed


def enable_endpoint(service: Service, name: str, by: str | None = None) -> int:
    """Send to an endpoint again, and return how many deliveries wait for that.

    *by*: see :func:`outbox.add_action`.

    Raises:
        UnknownWebhookError: There is no such endpoint.
        InvalidWebhookError: It is the one of WEBHOOK_URL, which was not set at the last start.
    """
    if read_endpoint(service, name).disabled_reason == URL_UNSET:
        raise InvalidWebhookError(
            f"{URL_UNSET}. Set WEBHOOK_URL and WEBHOOK_SECRET, and restart the service; or drop "
            f"what waits: imageprocessor webhooks remove {name}"
        )
    with service.database.write() as connection:
        webhooks.enable_endpoint(connection, name)
        waiting = webhook_history.count_waiting(connection, name)
        outbox.add_action(
            connection,
            EventType.WEBHOOK_ENABLED,
            clock.utc_now(),
            by,
            endpoint=name,
            waiting=waiting,
        )
    log.info("webhook_enabled", endpoint=name)
    return waiting


def read_delivery(service: Service, delivery_id: str) -> dict[str, Any]:
    """Return a delivery, with the body that is sent.

    Raises:
        InvalidIdError: *delivery_id* is not a UUID.
        UnknownDeliveryError: There is no such delivery, or its endpoint was removed.
    """
    canonical_id = parse_id(delivery_id)
    with service.database.read() as connection:
        return _find_delivery(connection, canonical_id)


def repeat_delivery(service: Service, delivery_id: str, by: str | None = None) -> bool:
    """Make a delivery that has ended due again; return False if it waits already.

    It gets its full number of tries. *by*: see :func:`outbox.add_action`.

    Raises:
        InvalidIdError: *delivery_id* is not a UUID.
        UnknownDeliveryError: There is no such delivery, or its endpoint was removed.
        DeliveryNotRepeatableError: Its image was deleted since.
    """
    canonical_id = parse_id(delivery_id)
    now = clock.utc_now()
    with service.database.write() as connection:
        delivery = _find_delivery(connection, canonical_id)
        event_type, image_id = delivery["event_type"], delivery["image_id"]
        is_outlasting = event_type in webhook_history.OUTLASTING
        if not is_outlasting and webhook_history.list_deleted_images(connection, [image_id]):
            raise DeliveryNotRepeatableError(
                f"Image {image_id} was deleted since, and the delivery {delivery_id} describes it. "
                f"Only {' and '.join(webhook_history.OUTLASTING)} are sent again then."
            )
        if webhook_history.repeat(connection, [canonical_id], now) == 0:
            return False
        outbox.add_action(
            connection,
            EventType.WEBHOOK_REPLAYED,
            now,
            by,
            endpoint=delivery["endpoint"],
            delivery_id=canonical_id,
            repeated=1,
        )
    log.info("webhook_repeated", endpoint=delivery["endpoint"], delivery_id=canonical_id)
    return True


def _find_delivery(connection: Connection, delivery_id: str) -> dict[str, Any]:
    delivery = webhook_history.find_delivery(connection, delivery_id)
    if delivery is None or not webhooks.find_endpoint(connection, delivery["endpoint"]):
        raise UnknownDeliveryError(
            f"There is no delivery {delivery_id}, or its endpoint was removed. Deliveries that "
            "have ended are kept for 30 days."
        )
    return delivery


def check_removable(service: Service, name: str) -> None:
    """Raise an error if :func:`remove_endpoint` would."""
    endpoint = read_endpoint(service, name)
    if endpoint.from_settings and endpoint.disabled_reason != URL_UNSET:
        raise InvalidWebhookError(
            f"{name!r} is the endpoint of WEBHOOK_URL. Unset that, restart the service, then "
            "remove the endpoint."
        )


def remove_endpoint(service: Service, name: str, report: Report) -> int:
    """Remove an endpoint, and drop the deliveries that wait for it; return how many.

    *report* is called with their number so far. What ended stays, until it is old.

    Raises:
        UnknownWebhookError: There is no such endpoint.
        InvalidWebhookError: It is the one of WEBHOOK_URL.
    """
    check_removable(service, name)
    # Disabled, it is sent nothing meanwhile. It goes last, so that a second call can do the rest.
    with service.database.write() as connection:
        webhooks.disable_endpoint(connection, name, "it is being removed", clock.utc_now())
    dropped = _drop_waiting(service, name, report)
    with service.database.write() as connection:
        webhooks.delete_endpoint(connection, name)
    dropped += _drop_waiting(service, name, report)  # of events that were being stored
    log.info("webhook_removed", endpoint=name, dropped=dropped)
    return dropped


def _drop_waiting(service: Service, name: str, report: Report) -> int:
    dropped = 0
    while True:
        with service.database.write() as connection:
            count = webhook_history.drop_waiting(connection, name, DELIVERIES_PER_DELETE)
        dropped += count
        if count < DELIVERIES_PER_DELETE:
            return dropped
        report("deliveries dropped", dropped)


def apply_settings(service: Service) -> None:
    """Store WEBHOOK_URL and WEBHOOK_SECRET as the endpoint ``default``, when the service starts.

    Several hosts may do so at once. A changed URL is sent to as if it had never failed; a changed
    secret is rotated. If WEBHOOK_URL is unset, the endpoint is disabled: what waits is not lost.

    Raises:
        SettingsError: Webhooks cannot be sent to WEBHOOK_URL.
    """
    if service.settings.webhook_url is None:
        _disable_abandoned(service)
        return
    try:
        check_url(service.settings.webhook_url.get_secret_value(), allows_private=True)
    except InvalidWebhookUrlError as error:
        raise SettingsError(f"WEBHOOK_URL cannot be used. {error}") from None
    try:
        _store_configured(service)
    except IntegrityError:  # another process stored it first
        _store_configured(service)


def _disable_abandoned(service: Service) -> None:
    with service.database.read() as connection:
        stored = webhooks.find_endpoint(connection, CONFIGURED)
    if stored is None or stored.disabled_reason == URL_UNSET:
        return
    with service.database.write() as connection:
        webhooks.enable_endpoint(connection, CONFIGURED)  # whatever disabled it before
        webhooks.disable_endpoint(connection, CONFIGURED, URL_UNSET, clock.utc_now())
    log.warning(
        "webhook_disabled",
        endpoint=CONFIGURED,
        cause=URL_UNSET,
        remedy="Its events wait. Set WEBHOOK_URL again, or drop them: "
        f"imageprocessor webhooks remove {CONFIGURED}",
    )


def _store_configured(service: Service) -> None:
    settings = service.settings
    assert settings.webhook_url
    assert settings.webhook_secret
    url = settings.webhook_url.get_secret_value()
    secret = settings.webhook_secret.get_secret_value()
    now = clock.utc_now()
    with service.database.read() as connection:
        stored = webhooks.find_endpoint(connection, CONFIGURED)
    if stored is None:
        endpoint = Endpoint(
            name=CONFIGURED,
            url=url,
            secret=secret,
            created_at=now,
            allows_private=True,
            from_settings=True,
        )
        with service.database.write() as connection:
            webhooks.insert_endpoint(connection, endpoint)
        return
    is_new_secret = stored.secret != secret
    is_new_url = stored.url != url
    was_unset = stored.disabled_reason == URL_UNSET
    if not (is_new_secret or is_new_url or was_unset):
        return
    with service.database.write() as connection:
        if is_new_secret:
            webhooks.change_secret(connection, stored, secret, now)
        if is_new_url:
            webhooks.change_url(connection, CONFIGURED, url)
        if is_new_url or was_unset:
            webhooks.enable_endpoint(connection, CONFIGURED)


def is_name(text: str) -> bool:
    """Return whether *text* may be the name of an endpoint."""
    return ENDPOINT_NAME.fullmatch(text) is not None


def _check_bucket(service: Service, bucket: str) -> None:
    check_bucket(bucket)
    allowed = service.settings.allowed_buckets
    if allowed and bucket not in allowed:
        raise InvalidBucketError(
            f"Bucket {bucket!r} is not in ALLOWED_BUCKETS: {', '.join(allowed)}. Use one of these."
        )


def _unknown(name: str) -> UnknownWebhookError:
    return UnknownWebhookError(
        f"There is no webhook endpoint {name[:80]!r}. List them: imageprocessor webhooks list"
    )
