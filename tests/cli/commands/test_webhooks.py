from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import typer
from standardwebhooks import Webhook

from imageprocessor.cli.commands.webhooks import parse_since
from imageprocessor.environment import load_settings
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.jobs.webhooks import DeliveryStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.webhooks import add_endpoint, apply_settings
from tests.cli.conftest import Run
from tests.queue.test_webhooks import end_deliveries
from tests.servers.webhook_receiver import Answer, WebhookReceiver
from tests.uploads import submit_to

URL = "http://127.0.0.1:1/hooks"


@pytest.fixture
def service(folder: Path, add_sqlite: Callable[[Path], None]) -> Iterator[Service]:
    """The service that the commands also open, with its data in the current folder."""
    add_sqlite(folder / "data")
    with open_service(load_settings({})) as opened:
        yield opened


@pytest.fixture
def send(service: Service) -> Callable[[], Job]:
    return partial(submit_to, service)


@pytest.fixture
def shop(service: Service) -> str:
    """The secret of an endpoint ``shop``."""
    return add_endpoint(service, "shop", URL, allows_private=True).secret


def test_add_prints_the_secret_alone_and_how_to_use_it(run: Run, service: Service) -> None:
    ran = run(
        "webhooks", "add", "shop", URL, "--allow-private", "--only-named",
        "--event", "image.completed", "--event", "image.failed", "--bucket", "photos",
    )  # fmt: skip
    assert ran.status == 0
    assert ran.out.startswith("whsec_")
    assert len(ran.out.splitlines()) == 1
    assert "Webhook(secret).verify(body, headers)" in ran.err
    assert "imageprocessor webhooks test shop" in ran.err
    (listed,) = run("webhooks", "list", "--json").json
    assert (listed["url"], listed["events"], listed["buckets"]) == (
        URL,
        ["image.completed", "image.failed"],
        ["photos"],
    )
    assert listed["only_named"]
    assert run("webhooks", "show", "shop", "--secret", "--json").json["secret"] == ran.out.strip()


def test_add_refuses_with_the_reason(run: Run, shop: str) -> None:
    refused = {
        "not a name of an endpoint": ["Shop", URL, "--allow-private"],
        "WEBHOOK_URL": ["default", URL, "--allow-private"],
        "scheme 'http'": ["new", URL],
        "image.completed": ["new", URL, "--allow-private", "--event", "image.eaten"],
        "already": ["shop", URL, "--allow-private"],
    }
    for fault, arguments in refused.items():
        ran = run("webhooks", "add", *arguments)
        assert (ran.status, ran.out) == (1, "")
        assert fault in ran.err


def test_add_refuses_a_host_of_this_network(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("93.184.215.14", 0)), (0, 0, 0, "", ("192.168.0.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    ran = run("webhooks", "add", "shop", "https://shop.example.com/")
    assert ran.status == 1
    assert "192.168.0.9" in ran.err


def test_no_command_but_show_prints_a_secret(run: Run, shop: str, send: Callable[[], Job]) -> None:
    job = send()
    for command in (
        ["webhooks", "list"],
        ["webhooks", "show", "shop"],
        ["webhooks", "disable", "shop"],
        ["webhooks", "test", "shop"],
        ["jobs", "show", job.job_id],
    ):
        for options in ([], ["--json"]):
            ran = run(*command, *options)
            assert shop not in ran.out + ran.err


def test_list_without_endpoints_says_how_to_add_one(run: Run, service: Service) -> None:
    assert "imageprocessor webhooks add NAME URL" in run("webhooks", "list").err
    assert run("webhooks", "list", "--json").json == []


def test_list_and_show_say_how_an_endpoint_fares(
    run: Run, service: Service, shop: str, send: Callable[[], Job]
) -> None:
    sent = send()
    end_deliveries(service, DeliveryStatus.DELIVERED)
    waits = send()
    (listed,) = run("webhooks", "list", "--json").json
    assert (listed["state"], listed["waiting"]) == ("ok", 1)
    assert listed["last_success"] > listed["created_at"]
    run("webhooks", "disable", "shop")
    assert "disabled: by an operator" in run("webhooks", "list").out

    shown = run("webhooks", "show", "shop", "--json").json
    assert [
        (one["job_id"], one["status"], one["attempt_count"]) for one in shown["deliveries"]
    ] == [
        (waits.job_id, "waiting", 0),
        (sent.job_id, "delivered", 3),
    ]
    table = run("webhooks", "show", "shop").out
    assert waits.job_id in table
    assert "image.accepted" in table


def test_test_sends_a_signed_event_and_prints_the_answer(run: Run, service: Service) -> None:
    with WebhookReceiver(lambda _: Answer(204)) as receiver:
        secret = add_endpoint(service, "shop", receiver.url, allows_private=True).secret
        ran = run("webhooks", "test", "shop")
        assert (ran.status, "204" in ran.out) == (0, True)
        (request,) = receiver.requests
        assert Webhook(secret).verify(request.body, dict(request.headers))["type"] == "webhook.test"
        receiver.answer = lambda _: Answer(500)
        refused = run("webhooks", "test", "shop", "--json")
    assert refused.status == 1
    assert (refused.json["accepted"], refused.json["status"]) == (False, 500)
    unreachable = run("webhooks", "test", "shop")
    assert unreachable.status == 1
    assert "refused" in unreachable.out


def test_rotate_prints_another_secret(run: Run, shop: str) -> None:
    new = run("webhooks", "rotate", "shop").out.strip()
    shown = run("webhooks", "show", "shop", "--secret", "--json").json
    assert shop != new == shown["secret"]
    assert shown["previous_secret_expires_at"]


def test_enable_says_how_many_deliveries_waited(
    run: Run, shop: str, send: Callable[[], Job]
) -> None:
    run("webhooks", "disable", "shop")
    assert "already" in run("webhooks", "disable", "shop").err
    send()
    assert "sent now: 1" in run("webhooks", "enable", "shop").err


def test_remove_asks_and_says_what_is_dropped(
    run: Run, shop: str, send: Callable[[], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    send()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    ran = run("webhooks", "remove", "shop")
    assert ran.status == 1
    assert "drop the deliveries that wait for it: 1?" in ran.err
    assert run("webhooks", "list", "--json").json
    assert run("webhooks", "remove", "shop", "--yes", "--json").json == {
        "endpoint": "shop",
        "dropped": 1,
    }
    assert run("webhooks", "list", "--json").json == []
    assert run("webhooks", "remove", "shop", "--yes").status == 1


def test_replay_says_what_it_adds_and_that_a_disabled_endpoint_waits(
    run: Run, service: Service, send: Callable[[], Job]
) -> None:
    send()
    add_endpoint(service, "shop", URL, allows_private=True)
    send()
    end_deliveries(service, DeliveryStatus.FAILED)
    assert run("webhooks", "replay", "shop", "--since", "1h", "--failed-only", "--json").json == {
        "endpoint": "shop", "repeated": 1, "added": 0, "disabled": False
    }  # fmt: skip
    run("webhooks", "disable", "shop")
    ran = run("webhooks", "replay", "shop", "--since", "2020-01-01")
    assert "repeated: 0; of events never sent: 1" in ran.err
    assert "webhooks enable shop" in ran.err


def test_since_is_a_moment_or_a_time_ago() -> None:
    moment = datetime(2024, 11, 8, 14, tzinfo=UTC)
    for text in ("2024-11-08T14:00Z", "2024-11-08T14:00", "2024-11-08T15:00+01:00"):
        assert parse_since(text) == moment
    ago = parse_since("2h") + timedelta(hours=2)
    assert timedelta(0) <= datetime.now(UTC) - ago < timedelta(minutes=1)
    for text in ("yesterday", "", "25:00", "2h ago", "0001-01-01T00:00+14:00"):
        with pytest.raises(typer.BadParameter, match="neither a time"):
            parse_since(text)


def test_replay_since_no_time_is_wrong_usage(run: Run, shop: str) -> None:
    assert run("webhooks", "replay", "shop", "--since", "yesterday").status == 2


def test_unknown_endpoint_is_an_error(run: Run, service: Service) -> None:
    for command in ("show", "test", "rotate", "disable", "enable", "remove"):
        ran = run("webhooks", command, "nobody")
        assert (ran.status, ran.out) == (1, "")
        assert "no webhook endpoint 'nobody'" in ran.err


def test_endpoint_of_the_settings_says_where_to_change_it(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"WEBHOOK_URL": URL, "WEBHOOK_SECRET": "whsec_" + "s" * 40}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with open_service(load_settings(values)) as configured:
        apply_settings(configured)
    assert "WEBHOOK_SECRET" in run("webhooks", "rotate", "default").err
    assert "Unset that" in run("webhooks", "remove", "default", "--yes").err
    assert run("webhooks", "list", "--json").json[0]["from_settings"]


def test_serve_checks_webhook_url_before_it_starts(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_URL", "http://127.0.0.1:99999/")
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_" + "s" * 40)
    ran = run("serve", "--port", "0")
    assert ran.status == 2
    assert "WEBHOOK_URL cannot be used" in ran.err


def test_jobs_show_lists_the_deliveries_of_a_job(
    run: Run, shop: str, send: Callable[[], Job]
) -> None:
    job = send()
    (delivery,) = run("jobs", "show", job.job_id, "--json").json["deliveries"]
    assert (delivery["endpoint"], delivery["event_type"], delivery["status"]) == (
        "shop",
        "image.accepted",
        "waiting",
    )
    assert "image.accepted" in run("jobs", "show", job.job_id).out
