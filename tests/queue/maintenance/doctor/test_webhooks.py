from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import update

from imageprocessor.queue.database.tables import webhook_endpoints
from imageprocessor.queue.maintenance.doctor.finding import Verdict
from imageprocessor.queue.maintenance.doctor.webhooks import (
    LONG_WAIT,
    check_authorities,
    check_webhooks,
)
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import add_endpoint, disable_endpoint
from imageprocessor.settings import Settings
from tests.queue.conftest import Submit, with_settings

URL = "https://shop.example.com/token-7"
BASE_URL = {"public_base_url": "https://images.example.com"}


def resolve(_: str) -> list[str]:
    return ["93.184.215.14"]


def examine(
    service: Service, find: Callable[[str], list[str]] = resolve
) -> list[tuple[Verdict, str]]:
    """Return what is found of the webhooks; no part of a URL's path may be shown."""
    settings = with_settings(service, **BASE_URL).settings
    findings = list(check_webhooks(settings, find))
    assert "token-7" not in repr(findings)
    return [(finding.verdict, finding.found) for finding in findings]


def test_endpoints_without_faults_are_ok(service: Service, submit_image: Submit) -> None:
    assert examine(service) == [(Verdict.OK, "endpoints without faults: 0")]
    add_endpoint(service, "shop", URL, resolve=resolve)
    submit_image()
    assert examine(service) == [(Verdict.OK, "endpoints without faults: 1")]


def test_webhooks_without_a_base_url_get_a_warning(service: Service) -> None:
    add_endpoint(service, "shop", URL, resolve=resolve)
    (finding,) = check_webhooks(service.settings, resolve)
    assert (finding.verdict, "PUBLIC_BASE_URL" in finding.found) == (Verdict.WARNING, True)


def test_host_that_has_moved_into_this_network_is_wrong(service: Service) -> None:
    add_endpoint(service, "shop", URL, resolve=resolve)
    ((verdict, found),) = examine(service, lambda _: ["10.0.0.1"])
    assert (verdict, "10.0.0.1" in found) == (Verdict.WRONG, True)


def test_disabled_and_failing_endpoints_get_a_warning(
    service: Service, submit_image: Submit
) -> None:
    for name in ("failing", "off"):
        add_endpoint(service, name, URL, resolve=resolve)
    submit_image()
    disable_endpoint(service, "off", "it failed for 5 days")
    with service.database.write() as connection:
        is_failing = webhook_endpoints.c.name == "failing"
        values = dict.fromkeys(("failing_since", "next_probe_at"), "2024-11-08T14:00:00.000000Z")
        connection.execute(update(webhook_endpoints).where(is_failing).values(values))
    assert examine(service) == [
        (Verdict.WARNING, "failing has accepted nothing since 2024-11-08 14:00 UTC."),
        (Verdict.WARNING, "off is disabled (it failed for 5 days); deliveries that wait: 1"),
    ]


def test_delivery_that_nobody_sends_gets_a_warning(
    service: Service, submit_image: Submit, set_clock: Callable[[timedelta], None]
) -> None:
    add_endpoint(service, "shop", URL, resolve=resolve)
    submit_image()
    set_clock(LONG_WAIT + timedelta(minutes=1))
    ((verdict, found),) = examine(service)
    assert (verdict, "has waited since" in found) == (Verdict.WARNING, True)


def test_unusable_authorities_are_wrong(new_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for name in ("none.pem", "empty.pem"):
        settings = new_settings.model_copy(update={"webhook_ca_file": tmp_path / name})
        (finding,) = check_authorities(settings)
        assert (finding.verdict, name in finding.found) == (Verdict.WRONG, True)


def test_missing_database_is_reported_elsewhere(new_settings: Settings) -> None:
    assert list(check_webhooks(new_settings, resolve)) == []
