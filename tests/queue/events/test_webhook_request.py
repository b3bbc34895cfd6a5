from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

import imageprocessor
from imageprocessor.errors import WebhookSecretInvalidError
from imageprocessor.queue.events.webhook_address import check_url
from imageprocessor.queue.events.webhook_request import (
    MAX_ANSWER_BYTES,
    Reply,
    _read_retry_after,
    check_secret,
    make_secret,
    send,
    sign,
)
from tests.servers.webhook_receiver import Answer, WebhookReceiver

NAME = "hooks.example.com"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(64))).decode()
BODY = '{"type":"image.completed","name":"größer"}'.encode()
MOMENT = datetime(2026, 11, 28, 12, 0, 0, 900_000, tzinfo=UTC)
PUBLIC = "93.184.215.14"


class Certificates(NamedTuple):
    """A private authority, and a certificate with its key for NAME."""

    ca_file: Path
    server: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert(NAME, "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return Certificates(folder / "ca.pem", folder / "server.pem")


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


def to_loopback(_host: str) -> list[str]:
    return ["127.0.0.1"]


def deliver(url: str, **options: Any) -> Reply:
    given: dict[str, Any] = {
        "allows_private": True,
        "resolve": to_loopback,
        "moment": MOMENT,
        "secrets": [SECRET],
    }
    return send(url, BODY, message_id="event-1", **(given | options))


def answer_with(receiver: WebhookReceiver, **answer: Any) -> None:
    receiver.answer = lambda _: Answer(**answer)


# What arrives


def test_request_has_body_type_and_headers_of_the_standard(receiver: WebhookReceiver) -> None:
    reply = deliver(receiver.url + "?a=%20b")
    (request,) = receiver.requests
    assert (reply.status, reply.error, reply.succeeded, reply.gone) == (200, None, True, False)
    assert (request.path, request.body) == ("/hook?a=%20b", BODY)
    assert request.headers["host"] == f"127.0.0.1:{receiver.server_port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"imageprocessor/{imageprocessor.__version__}"
    assert request.headers["webhook-id"] == "event-1"
    assert request.headers["webhook-timestamp"] == "1795867200"


def test_receiver_can_verify_with_either_secret(receiver: WebhookReceiver) -> None:
    deliver(receiver.url, moment=datetime.now(UTC), secrets=[SECRET, OTHER_SECRET])
    (request,) = receiver.requests
    headers = dict(request.headers.items())
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(request.body, headers)["name"] == "größer"


def test_signature_is_the_hmac_of_id_second_and_body() -> None:
    content = b"event-1.1795867200." + BODY
    key, other_key = bytes(range(32)), bytes(range(64))
    digest = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    other = base64.b64encode(hmac.digest(other_key, content, hashlib.sha256)).decode()
    assert sign([SECRET], "event-1", MOMENT, BODY) == f"v1,{digest}"
    assert sign([SECRET, OTHER_SECRET], "event-1", MOMENT, BODY) == f"v1,{digest} v1,{other}"


def test_signature_does_not_depend_on_the_time_zone_of_the_moment() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=9)))
    expected = sign([SECRET], "event-1", MOMENT, BODY)
    assert sign([SECRET], "event-1", elsewhere, BODY) == expected


def test_made_secrets_differ_and_pass_the_check() -> None:
    assert make_secret() != make_secret()
    check_secret(make_secret())
    check_secret(SECRET)
    check_secret(OTHER_SECRET)


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "does not start with 'whsec_'"),
        (SECRET.removeprefix("whsec_"), "does not start with 'whsec_'"),
        ("whsec_correct horse battery staple!", "is not base64"),
        ("whsec_" + "é" * 40, "is not base64"),
        (SECRET.rstrip("="), "is not base64"),
        ("whsec_", "has 0 bytes, not 24 to 64"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "has 23 bytes, not 24 to 64"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "has 65 bytes, not 24 to 64"),
    ],
)
def test_weak_secret_is_refused_without_repeating_it(secret: str, reason: str) -> None:
    with pytest.raises(WebhookSecretInvalidError) as caught:
        check_secret(secret)
    assert reason in str(caught.value)


# Answers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (204, None),
        (299, None),
        (301, "answered 301: redirects are not followed"),
        (307, "answered 307: redirects are not followed"),
        (400, "answered 400"),
        (410, "answered 410"),
        (500, "answered 500"),
    ],
)
def test_only_2xx_succeeds(receiver: WebhookReceiver, status: int, error: str | None) -> None:
    headers = {"Location": receiver.url, "Set-Cookie": "a=b"}
    answer_with(receiver, status=status, headers=headers, body=b"" if status == 204 else b"ok")
    reply = deliver(receiver.url)
    assert (reply.status, reply.error) == (status, error)
    assert (reply.succeeded, reply.gone) == (status < 300, status == 410)
    assert reply.retry_after_seconds is None
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("999999", 86_400),
        ("9" * 5000, 86_400),
        ("Sat, 28 Nov 2026 12:01:00 GMT", 59.1),
        ("Fri, 27 Nov 2026 12:01:00 GMT", 0),
        ("Sat, 28 Nov 2099 12:01:00 GMT", 86_400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read(receiver: WebhookReceiver, value: str, seconds: float | None) -> None:
    answer_with(receiver, status=429, headers={"Retry-After": value})
    reply = deliver(receiver.url)
    assert (reply.status, reply.error) == (429, "answered 429")
    assert reply.retry_after_seconds == seconds


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
@example("Sat, 28 Nov 99999 12:01:00 GMT")
@example("Sat, 28 Nov 2026 12:01:00 -0000")
@example("Sat, 28 Nov 2026 12:01:00 +9999999999")
def test_any_retry_after_is_a_delay_or_ignored(text: str) -> None:
    seconds = _read_retry_after(text, MOMENT)
    assert seconds is None or 0 <= seconds <= 86_400


# Faults of the receiver


def test_refused_connection(receiver: WebhookReceiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    reply = deliver(f"http://127.0.0.1:{port}/")
    assert (reply.status, reply.error, reply.succeeded) == (None, "connection refused", False)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"resets": True}, "connection reset by peer"),
        ({"raw": b""}, "connection closed without an answer"),
        ({"raw": b"SSH-2.0-OpenSSH_9.2\r\n"}, "the answer is not HTTP"),
        ({"raw": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 101 + b"\r\n"}, "the answer is not HTTP"),
        ({"delay_seconds": 9}, "timed out after 0.3 s"),
        ({"seconds_per_byte": 0.02}, "timed out after 0.3 s"),
        ({"raw": b"HTTP/1.1 100 -\r\n\r\n", "seconds_per_byte": 0.02}, "timed out after 0.3 s"),
    ],
)
def test_answer_that_is_none(
    receiver: WebhookReceiver, answer: Mapping[str, Any], error: str
) -> None:
    answer_with(receiver, **answer)
    reply = deliver(receiver.url, timeout_seconds=0.3)
    assert (reply.status, reply.error, reply.succeeded) == (None, error, False)
    assert reply.seconds < 2


def test_dripping_body_holds_the_sender_no_longer_than_the_timeout(
    receiver: WebhookReceiver,
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
    answer_with(receiver, raw=head + b"x" * 9999, seconds_per_byte=0.003)
    started = time.monotonic()
    reply = deliver(receiver.url, timeout_seconds=0.5)
    assert time.monotonic() - started < 2
    assert reply.succeeded


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 50000000",
        b"Content-Length: 9",
        b"Transfer-Encoding: chunked\r\n\r\n2FAF080",
        b"Transfer-Encoding: chunked\r\n\r\n-1",  # http.client would read this to its end
        b"Transfer-Encoding: chunked\r\n\r\n-2",
        b"\r\n".join([b"x: " + bytes(60_000)] * 90),
    ],
    ids=["body", "more than announced", "chunk", "chunk of -1", "chunk of -2", "head"],
)
def test_answer_is_not_read_beyond_the_limit(
    receiver: WebhookReceiver, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = count_received_bytes(monkeypatch)
    answer_with(receiver, raw=b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + bytes(50_000_000))
    reply = deliver(receiver.url)
    assert (reply.status, reply.succeeded) == (200, True)
    assert 0 < sum(arrived) <= MAX_ANSWER_BYTES


def count_received_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    arrived: list[int] = []
    connect = socket.create_connection

    class CountingSocket(socket.socket):
        def recv_into(self, *arguments: Any) -> int:
            arrived.append(super().recv_into(*arguments))
            return arrived[-1]

    def connect_counting(*arguments: Any, **options: Any) -> socket.socket:
        return CountingSocket(fileno=connect(*arguments, **options).detach())

    monkeypatch.setattr(socket, "create_connection", connect_counting)
    return arrived


def test_receiver_that_does_not_read_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        reply = send(
            url,
            bytes(30_000_000),
            message_id="event-1",
            secrets=[SECRET],
            moment=MOMENT,
            allows_private=True,
            timeout_seconds=0.3,
        )
    assert reply.error == "timed out after 0.3 s"
    assert reply.seconds < 2


# Addresses


def test_name_that_moves_to_this_machine_is_not_connected_to(
    receiver: WebhookReceiver, certificates: Certificates
) -> None:
    calls = count()

    def rebind(_host: str) -> list[str]:
        return [PUBLIC] if next(calls) == 0 else ["127.0.0.1"]

    url = f"https://{NAME}:{receiver.server_port}/"
    check_url(url, allows_private=False, resolve=rebind)
    reply = deliver(url, allows_private=False, resolve=rebind)
    assert reply.status is None
    assert reply.error == (
        f"'{NAME}' leads to '127.0.0.1', which is not a public address. Use a public host, or "
        "allow private addresses."
    )
    assert (receiver.connections, next(calls)) == (0, 2)


def test_one_private_address_beside_a_public_one_prevents_any_connection(
    receiver: WebhookReceiver,
) -> None:
    url = f"https://{NAME}:{receiver.server_port}/"
    for addresses in ([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC]):
        reply = deliver(url, allows_private=False, resolve=lambda _, found=addresses: found)
        assert "is not a public address" in (reply.error or "")
    assert receiver.connections == 0


def test_name_is_resolved_once_for_each_try(receiver: WebhookReceiver) -> None:
    calls: list[str] = []

    def resolve(host: str) -> Sequence[str]:
        calls.append(host)
        return ["127.0.0.1"]

    assert deliver(f"http://{NAME}:{receiver.server_port}/", resolve=resolve).succeeded
    assert calls == [NAME]
    assert receiver.requests[0].headers["host"] == f"{NAME}:{receiver.server_port}"


def test_next_address_is_tried_if_one_refuses(receiver: WebhookReceiver) -> None:
    addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    url = f"http://{NAME}:{receiver.server_port}/"
    assert deliver(url, resolve=lambda _: addresses).succeeded
    assert deliver(url, resolve=lambda _: addresses[:2]).error == "connection refused"


def test_name_that_does_not_resolve_is_a_failure_of_this_try() -> None:
    def fail(_host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    reply = deliver(f"https://{NAME}/", resolve=fail)
    assert reply.status is None
    assert (reply.error or "").startswith(
        f"Cannot resolve '{NAME}': Temporary failure in name resolution."
    )


def test_url_is_checked_at_each_try(receiver: WebhookReceiver) -> None:
    reply = deliver(receiver.url, allows_private=False)
    assert reply.error is not None
    assert "scheme 'http'" in reply.error
    assert receiver.connections == 0


def test_proxies_of_the_environment_are_not_used(
    receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    assert deliver(f"http://{NAME}:{receiver.server_port}/").succeeded


# TLS


def test_https_checks_the_certificate_for_the_name_and_not_for_the_address(
    certificates: Certificates,
) -> None:
    with WebhookReceiver(certificate=certificates.server, name=NAME) as receiver:
        reply = deliver(receiver.url, ca_file=certificates.ca_file)
        assert (reply.status, reply.error) == (200, None)
        other = receiver.url.replace(NAME, "other.example.com")
        reply = deliver(other, ca_file=certificates.ca_file)
        assert reply.error == (
            "certificate verify failed: Hostname mismatch, certificate is not valid for "
            "'other.example.com'."
        )
        by_address = receiver.url.replace(NAME, "127.0.0.1")
        assert deliver(by_address, ca_file=certificates.ca_file).succeeded
        assert len(receiver.requests) == 2


def test_receiver_is_given_the_server_name(certificates: Certificates) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with WebhookReceiver(name=NAME) as receiver:
        receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
        url = receiver.url.replace("http:", "https:")
        assert deliver(url, ca_file=certificates.ca_file).succeeded
    assert names == [NAME]


def test_certificate_of_an_unknown_authority_is_refused(certificates: Certificates) -> None:
    with WebhookReceiver(certificate=certificates.server, name=NAME) as receiver:
        reply = deliver(receiver.url)
        assert (reply.error or "").startswith("certificate verify failed: ")
        assert receiver.requests == []


def test_receiver_that_speaks_no_tls(receiver: WebhookReceiver) -> None:
    reply = deliver(receiver.url.replace("http:", "https:"))
    assert (reply.error or "").startswith("TLS failed: ")


def test_handshake_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reply = deliver(f"https://{NAME}:{silent.getsockname()[1]}/", timeout_seconds=0.3)
    assert reply.error == "timed out after 0.3 s"
    assert reply.seconds < 2


def test_dripping_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip_handshake, args=(listener,))
        thread.start()
        reply = deliver(f"https://{NAME}:{listener.getsockname()[1]}/", timeout_seconds=0.3)
        thread.join()
    assert reply.error == "timed out after 0.3 s"
    assert reply.seconds < 2


def drip_handshake(listener: socket.socket) -> None:
    """Begin a TLS record of 16 kB and send a byte of it every 20 ms, until the client is gone."""
    accepted, _ = listener.accept()
    with closing(accepted):
        try:
            accepted.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            for _ in range(500):
                accepted.sendall(b"\x00")
                time.sleep(0.02)
        except OSError:
            return


def test_unreadable_ca_file_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for ca_file in (empty, tmp_path / "missing.pem"):
        reply = deliver(f"https://{NAME}/", ca_file=ca_file)
        assert reply.status is None
        assert str(ca_file) in (reply.error or "")
