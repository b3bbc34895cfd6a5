"""Checks of webhook endpoints: whether they accept events, and can still be sent to."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta

from imageprocessor.errors import ImageProcessorError, InvalidWebhookUrlError
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import HEAD, read_revision
from imageprocessor.queue.events.webhook_address import Resolve, check_url, resolve_host
from imageprocessor.queue.jobs import webhook_history
from imageprocessor.queue.jobs.webhooks import Endpoint, list_endpoints
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.queue.webhooks import URL_UNSET
from imageprocessor.settings import Settings

NAME = "webhooks"
LONG_WAIT = timedelta(minutes=15)  #: for the first try of an event, which takes a second


def check_webhooks(settings: Settings, resolve: Resolve = resolve_host) -> Iterator[Finding]:
    """Yield a finding for each fault of an endpoint, or a single one if there is none.

    A database that cannot be read is reported by :func:`check_database`.
    """
    if settings.sqlite_path and not settings.sqlite_path.exists():
        return
    with (
        suppress(ImageProcessorError),
        closing(open_database(settings, creates=False)) as database,
    ):
        with database.read() as connection:
            if (read_revision(connection) or "") < HEAD:
                return
            endpoints = list_endpoints(connection)
        found = [*check_base_url(settings, endpoints), *check_authorities(settings)]
        for endpoint in endpoints:
            found += check_endpoint(database, endpoint, resolve)
        yield from found or [ok(NAME, f"endpoints without faults: {len(endpoints)}")]


def check_base_url(settings: Settings, endpoints: list[Endpoint]) -> Iterator[Finding]:
    """Yield a finding if receivers get URLs that they cannot open."""
    if (endpoints or settings.webhook_url) and not settings.public_base_url:
        found = (
            "PUBLIC_BASE_URL is unset: the `urls` in webhooks begin with /storage, without a host."
        )
        fix = "Set it to the address of this service, or of a CDN in front of it."
        yield warning(NAME, found, fix)


def check_authorities(settings: Settings) -> Iterator[Finding]:
    """Yield a finding if WEBHOOK_CA_FILE cannot be used."""
    path = settings.webhook_ca_file
    if path is None:
        return
    try:
        ssl.create_default_context().load_verify_locations(path)
    except OSError as error:
        found = f"WEBHOOK_CA_FILE={path} cannot be used ({error})."
        yield wrong(NAME, found, "Name a readable PEM file with certificates.")


def check_endpoint(database: Database, endpoint: Endpoint, resolve: Resolve) -> Iterator[Finding]:
    """Yield findings on one endpoint. No part of its URL but the host is shown."""
    name = endpoint.name
    try:
        check_url(endpoint.url, allows_private=endpoint.allows_private, resolve=resolve)
    except InvalidWebhookUrlError as error:
        fix = f"Correct its DNS, or remove and add it: imageprocessor webhooks remove {name}"
        yield wrong(NAME, f"{name}: {error}", fix)
    with database.read() as connection:
        waiting = webhook_history.count_waiting(connection, name)
        oldest = webhook_history.find_oldest_waiting(connection, name)
    if endpoint.disabled_at:
        found = f"{name} is disabled ({endpoint.disabled_reason}); deliveries that wait: {waiting}"
        is_unset = endpoint.disabled_reason == URL_UNSET
        resume = "Set WEBHOOK_URL again" if is_unset else f"imageprocessor webhooks enable {name}"
        yield warning(NAME, found, f"{resume}, or imageprocessor webhooks remove {name}")
    elif endpoint.is_failing:
        found = f"{name} has accepted nothing since {endpoint.failing_since:%Y-%m-%d %H:%M} UTC."
        yield warning(NAME, found, f"imageprocessor webhooks show {name}")
    elif oldest and clock.utc_now() - oldest > LONG_WAIT:
        found = f"{name}: a delivery has waited since {oldest:%Y-%m-%d %H:%M} UTC; in all {waiting}"
        fix = f"Is a worker running? See its tries: imageprocessor webhooks show {name}"
        yield warning(NAME, found, fix)
