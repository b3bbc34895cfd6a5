"""Limits on what a client may send before its request is complete, and on how slowly."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from typing import Never

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imageprocessor.errors import UnsupportedTypeError
from imageprocessor.server import protocol
from imageprocessor.server.middleware.security_headers import INERT_HEADERS
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.server.live import Wire, form_body, form_start, get, serve, upload_head, wire

LIVE = b"GET /livez HTTP/1.1\r\nHost: test\r\n"
CHUNKED = "Transfer-Encoding: chunked"
FLOOD = 3_000_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("connections"))


@pytest.fixture(scope="module")
def port(settings: Settings) -> Iterator[int]:
    with serve(settings) as found:
        yield found


@pytest.fixture(scope="module")
def authorization(port: int, settings: Settings) -> str:
    return f"Authorization: Bearer {sign_token(settings, 'ann')}"


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the deadlines of clients to a fraction of a second."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "SEND_SECONDS"):
        monkeypatch.setattr(protocol, name, 0.4)


def refusal(line: Wire) -> tuple[HTTPResponse, dict[str, object]]:
    response, body = line.answer()
    assert body.endswith(b"}\n")
    assert line.connection.recv(1) == b"", "the connection is closed"
    return response, json.loads(body)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n", 414, id="long target"),
        pytest.param(b"GET /" + b"a" * FLOOD, 414, id="endless target"),
        pytest.param(LIVE + b"X: y\r\n" * 1_000 + b"\r\n", 431, id="many headers"),
        pytest.param(LIVE + b"X: " + b"y" * 200_000 + b"\r\n\r\n", 431, id="long header"),
        pytest.param(LIVE + b"X: " + b"y" * FLOOD, 431, id="endless header"),
        pytest.param(LIVE + b"X" * FLOOD, 431, id="endless name"),
        pytest.param(b"\r\n" * FLOOD, 431, id="empty lines"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(LIVE + b"host: test\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two, HTTP/1.0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, id="list of hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, id="host with a path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400, id="host with a user"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, id="port with letters"),
        pytest.param(b"CONNECT other:443 HTTP/1.1\r\n\r\n", 400, id="CONNECT"),
        pytest.param(LIVE + b"X: a\x00b\r\n\r\n", 400, id="NUL in a header"),
        pytest.param(LIVE + b"X: a\r\n b\r\n\r\n", 400, id="folded header"),
    ],
)
def test_malformed_request_is_refused_at_once_with_a_problem(
    port: int, sent: bytes, status: int
) -> None:
    with wire(port) as line:
        started = time.process_time()
        line.send(sent)
        response, problem = refusal(line)
        assert time.process_time() - started < 0.1
    assert response.status == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == problem["request_id"]
    assert {name.decode(): value.decode() for name, value in INERT_HEADERS}.items() <= dict(
        response.headers
    ).items()
    assert get(port, "/livez")[0].status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0\r\n",
        b"HTTP/1.1\r\nHost:\r\n",
        b"HTTP/1.1\r\nHost: api_1:8000\r\n",
        b"HTTP/1.1\r\nHOST: [::1]:8000\r\n",
    ],
)
def test_request_with_a_valid_host_is_answered(port: int, head: bytes) -> None:
    with wire(port) as line:
        line.send(b"GET /livez " + head + b"\r\n")
        assert line.answer("GET")[0].status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"1;" + b"x" * FLOOD, 431, id="endless extension of a chunk"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 1_000, 431, id="many trailers"),
        pytest.param(b"0\r\nX:" + b"y" * FLOOD, 431, id="endless trailer"),
        pytest.param(b"zz\r\n", 400, id="chunk without a size"),
    ],
)
def test_malformed_chunked_body_is_refused_at_once(
    port: int, authorization: str, sent: bytes, status: int
) -> None:
    with wire(port) as line:
        started = time.process_time()
        line.send(upload_head(authorization, CHUNKED) + sent)
        assert refusal(line)[0].status == status
        assert time.process_time() - started < 0.1


@pytest.mark.parametrize("sent", [b"\r\n", b"GET /li", LIVE, LIVE + b"X: y"])
def test_incomplete_head_gets_a_408(port: int, short_deadlines: None, sent: bytes) -> None:
    with wire(port) as line:
        line.send(sent)
        assert refusal(line)[0].status == 408


@pytest.mark.parametrize(
    ("length", "start"), [("Content-Length: 1000", b"--liv"), (CHUNKED, b"5\r\n--liv")]
)
def test_incomplete_body_gets_a_408(
    port: int,
    short_deadlines: None,
    settings: Settings,
    authorization: str,
    length: str,
    start: bytes,
) -> None:
    with wire(port) as line:
        line.send(upload_head(authorization, length) + start)
        response, problem = refusal(line)
    assert (response.status, problem["code"]) == (408, "request_timeout")
    assert list((settings.data_dir / "incoming").iterdir()) == []


def test_slowly_sent_head_is_refused(port: int, short_deadlines: None) -> None:
    assert _seconds_until_refused(port, LIVE + b"X: ") < 5


def test_slowly_sent_body_is_refused(port: int, short_deadlines: None, authorization: str) -> None:
    assert (
        _seconds_until_refused(
            port, upload_head(authorization, "Content-Length: 1000000") + form_start()
        )
        < 5
    )


def _seconds_until_refused(port: int, start: bytes) -> float:
    """Return how many seconds a client can send byte by byte before it is refused."""
    began = time.monotonic()
    with wire(port) as line:
        line.send(start)
        line.connection.settimeout(0.01)
        while time.monotonic() - began < 10:
            line.send(b"a")
            try:
                assert line.connection.recv(12) == b"HTTP/1.1 408"
                break
            except TimeoutError:
                pass
    return time.monotonic() - began


def test_silent_client_is_disconnected_without_a_response(port: int, short_deadlines: None) -> None:
    with wire(port) as line:
        assert line.connection.recv(1) == b""


def test_body_at_the_minimum_rate_is_accepted(
    port: int, short_deadlines: None, authorization: str
) -> None:
    body = form_body(encode(photo(80, 60), "PNG") + bytes(100_000))
    with wire(port) as line:
        line.send(upload_head(authorization, f"Content-Length: {len(body)}"))
        started = time.monotonic()
        for start in range(0, len(body), 8_000):
            line.send(body[start : start + 8_000])
            time.sleep(0.08)
        assert line.answer()[0].status == 202
        assert time.monotonic() - started > 2 * protocol.BODY_SECONDS


def test_body_that_never_ends_is_refused_however_steadily_it_arrives(
    port: int, short_deadlines: None, authorization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that takes longer, the sweep would delete the files that arrived first."""
    monkeypatch.setattr(protocol, "MAX_BODY_SECONDS", 1.0)
    with wire(port) as line:
        line.send(upload_head(authorization, "Content-Length: 1000000") + form_start())
        line.connection.settimeout(0.05)
        for _ in range(50):
            line.send(bytes(2_000))
            with suppress(TimeoutError):
                assert line.connection.recv(12) == b"HTTP/1.1 408"
                return
    pytest.fail("It was not refused within 2.5 s.")


def test_deadlines_apply_to_requests_not_connections(port: int, short_deadlines: None) -> None:
    with wire(port) as line:
        for _ in range(4):
            line.send(LIVE + b"\r\n")
            assert line.answer("GET")[0].status == 200
            time.sleep(0.2)


def test_unread_body_closes_the_connection(port: int, short_deadlines: None) -> None:
    with wire(port) as line:
        line.send(LIVE + b"Content-Length: 1000\r\n\r\n")
        assert line.answer("GET")[0].status == 200
        assert line.connection.recv(1) == b""


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with wire(port) as line:
        line.send(
            LIVE
            + b"\r\nGET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n"
            + LIVE
            + b"Content-Length: 3\r\n\r\nabc"
        )
        line.send(LIVE + b"Connection: close\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", line.rest()) == [b"200", b"404", b"200", b"200"]


def test_incomplete_request_does_not_lose_the_previous_response(
    port: int, short_deadlines: None, authorization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_time(*_: object) -> Never:
        time.sleep(1)
        raise UnsupportedTypeError("The file is not an image.")

    monkeypatch.setattr("imageprocessor.server.uploads.submit", take_time)
    body = form_body(b"x")
    with wire(port) as line:
        line.send(upload_head(authorization, f"Content-Length: {len(body)}") + body + b"\r\n")
        assert line.answer()[0].status == 415


def test_thousands_of_pipelined_requests_close_the_connection(port: int) -> None:
    with wire(port) as line:
        line.send((LIVE + b"\r\n") * 20_000)
        assert line.rest().count(b"HTTP/1.1") < 1_000


def test_garbage_after_a_request_does_not_replace_its_response(port: int) -> None:
    with wire(port) as line:
        line.send(LIVE + b"\r\n\x00\x00")
        assert b"HTTP/1.1 400" not in line.rest()


def test_client_that_does_not_read_is_disconnected(port: int, short_deadlines: None) -> None:
    asset = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n"
    with wire(port) as line:
        line.send(asset * 20)  # each is more than a megabyte
        time.sleep(1)
        assert len(line.rest()) < 15_000_000


def test_connection_above_the_limit_gets_a_503(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "max_connections", lambda: 3)
    with ExitStack() as stack:
        lines = [stack.enter_context(wire(port)) for _ in range(4)]
        response, problem = refusal(lines[3])
        assert (response.status, problem["code"]) == (503, "service_unavailable")
        assert response.getheader("Retry-After") == "5"
        lines[0].send(LIVE + b"\r\n")
        assert lines[0].answer("GET")[0].status == 200


def test_idle_connection_makes_room_for_a_new_one(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "max_connections", lambda: 2)
    with ExitStack() as stack:
        lines = [stack.enter_context(wire(port)) for _ in range(2)]
        for line in lines:
            line.send(LIVE + b"\r\n")
            assert line.answer("GET")[0].status == 200
        lines.append(stack.enter_context(wire(port)))
        lines[2].send(LIVE + b"\r\n")
        assert lines[2].answer("GET")[0].status == 200
        for line in lines:
            line.connection.settimeout(0.2)
        assert [is_open(line) for line in lines].count(True) == 2


def is_open(line: Wire) -> bool:
    try:
        return line.connection.recv(1) != b""
    except TimeoutError:
        return True


#: Parts of uvicorn that protocol.py and process.py use although they are not public.
OVERRIDDEN_METHODS = {
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "on_message_begin": [],
    "on_url": ["url"],
    "on_header": ["name", "value"],
    "on_headers_complete": [],
    "on_body": ["body"],
    "on_message_complete": [],
    "on_response_complete": [],
    "pause_writing": [],
    "resume_writing": [],
    "send_400_response": ["msg"],
}
READ_ATTRIBUTES = {
    "connection": [
        "connections",
        "loop",
        "transport",
        "cycle",
        "flow",
        "headers",
        "parser",
        "pipeline",
    ],
    "cycle": ["disconnected", "message_event", "response_started", "response_complete"],
    "flow": ["read_paused"],
    "server": ["server_state", "force_exit", "handle_exit"],
    "server_state": ["connections", "tasks"],
}


class FakeTransport(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool:
        return False


async def open_plain_connection() -> dict[str, object]:
    """Return the objects with which uvicorn serves a request that has started."""

    async def app(_scope: object, _receive: object, _send: object) -> None:
        await asyncio.sleep(0)

    config = uvicorn.Config(app, http=HttpToolsProtocol, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    connection = HttpToolsProtocol(config, server.server_state, {})
    connection.connection_made(FakeTransport())
    connection.data_received(LIVE + b"\r\n")
    return {
        "connection": connection,
        "cycle": connection.cycle,
        "flow": connection.flow,
        "server": server,
        "server_state": server.server_state,
    }


def test_uvicorn_still_has_the_internals_we_use() -> None:
    for name, parameters in OVERRIDDEN_METHODS.items():
        method = getattr(HttpToolsProtocol, name, None)
        assert method, f"uvicorn {uvicorn.__version__}: HttpToolsProtocol has no {name}"
        found = list(inspect.signature(method).parameters)[1:]
        assert found == parameters, f"uvicorn {uvicorn.__version__}: {name} takes {found}"
    for owner, part in asyncio.run(open_plain_connection()).items():
        missing = [name for name in READ_ATTRIBUTES[owner] if not hasattr(part, name)]
        assert not missing, f"uvicorn {uvicorn.__version__}: {owner} has no {missing}"
