"""Requests that no honest client sends, over real sockets.

They are rows 24 to 35 of the service's acceptance table.

Requests that are refused before they are complete are in tests/server/test_protocol.py, and tokens
in tests/test_tokens.py.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server import protocol
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.server.conftest import count_jobs
from tests.server.live import (
    BOUNDARY,
    Wire,
    chunk,
    form_body,
    form_start,
    get,
    serve,
    upload_head,
    wire,
)
from tests.servers import create_database, find_free_port, run_server

MEGABYTE = 1024 * 1024
JPEG = encode(photo(40, 30), "JPEG")
KEY = "tests-only-tests-only-tests-only-tests-only"
UPLOADS_PER_USER = 50


@dataclass(frozen=True, slots=True)
class Target:
    """A running service, one of its images, and a user's Authorization header."""

    port: int
    service: Service
    image: dict[str, str]
    authorization: str

    def upload(self, *lines: str, body: bytes = b"") -> tuple[int, str]:
        """Send an upload; return the status and code of the response."""
        with wire(self.port) as line:
            line.send(upload_head(self.authorization, *lines) + body)
            response, answer = line.answer()
            return response.status, json.loads(answer).get("code", "")

    def is_well(self) -> bool:
        """Return whether the next good upload is accepted."""
        body = form_body(JPEG)
        return self.upload(f"Content-Length: {len(body)}", body=body)[0] == 202


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("hostile"), rate_limit_max_uploads=1000)
    authorization = f"Authorization: Bearer {sign_token(settings, 'ann')}"
    body = form_body(JPEG)
    with open_service(settings) as service, serve(settings) as port:
        with wire(port) as line:
            line.send(upload_head(authorization, f"Content-Length: {len(body)}") + body)
            image: dict[str, str] = json.loads(line.answer()[1])
        run_job(service, image["job_id"], "test")
        yield Target(port, service, image, authorization)


@pytest.fixture(autouse=True)
def next_good_upload_is_accepted_and_nothing_remains(
    request: pytest.FixtureRequest,
) -> Iterator[None]:
    yield
    if "target" in request.fixturenames:
        target: Target = request.getfixturevalue("target")
        assert target.is_well()
        wait_until(lambda: not list(target.service.incoming.iterdir()))


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_eleven_megabytes_are_refused_before_they_are_read(target: Target) -> None:
    answer = target.upload(f"Content-Length: {11 * MEGABYTE}", "Expect: 100-continue")
    assert answer == (413, "file_too_large")


def test_a_batch_may_be_larger_than_an_upload_but_not_than_its_own_limit(target: Target) -> None:
    head = upload_head(target.authorization, "Transfer-Encoding: chunked")
    head = head.replace(b"/images/upload", b"/images/batch")
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    with wire(target.port) as line:
        line.send(head + chunk(form_start()) + chunk(b"x" * MEGABYTE) * 12)
        line.send(chunk(end) + b"0\r\n\r\n")
        response, answer = line.answer()
    assert (response.status, json.loads(answer)["items"][0]["status"]) == (207, 413)

    lines = (f"Content-Length: {102 * MEGABYTE}", "Expect: 100-continue")
    head = upload_head(target.authorization, *lines)
    with wire(target.port) as line:
        line.send(head.replace(b"/images/upload", b"/images/batch"))
        response, answer = line.answer()
    assert (response.status, json.loads(answer)["code"]) == (413, "batch_too_large")


def test_eleven_megabytes_in_chunks_are_refused_at_the_limit(target: Target) -> None:
    pieces = chunk(form_start()) + chunk(b"x" * MEGABYTE) * 11 + b"0\r\n\r\n"
    assert target.upload("Transfer-Encoding: chunked", body=pieces) == (413, "file_too_large")


@pytest.mark.parametrize(
    "lines",
    [
        *[
            [f"Content-Length: {value}"]
            for value in ("-1", "+5", "5 5", "5, 5", "0x5", "", "5;", "1e3", "\u0665", "9" * 30)
        ],
        ["Content-Length : 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "content-length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        *[
            [f"Transfer-Encoding: {value}"]
            for value in ("gzip", "identity", "chunked, gzip", "xchunked", "chunked\x0b")
        ],
    ],
)
def test_ambiguous_length_is_a_400(target: Target, lines: list[str]) -> None:
    assert target.upload(*lines, body=b"5\r\nabcde\r\n0\r\n\r\n") == (400, "bad_request")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        (f"multipart/form-data; boundary={'b' * 300}", 400),
        (f"multipart/form-data; boundary={'b' * 60_000}", 400),
        (f"multipart/form-data; {'x=y; ' * 10_000}", 400),
        (f"multipart/form-data; boundary={BOUNDARY}; boundary=other", 400),
        ("multipart/mixed; boundary=x", 400),
    ],
)
def test_boundary_must_be_present_and_short(target: Target, content_type: str, status: int) -> None:
    body = form_body(JPEG)
    head = upload_head(target.authorization, f"Content-Length: {len(body)}")
    head = head.replace(f"multipart/form-data; boundary={BOUNDARY}".encode(), content_type.encode())
    with wire(target.port) as line:
        started = time.process_time()
        line.send(head + body)
        assert line.answer()[0].status == status
        assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\r\n" * (5 * MEGABYTE // 2), id="preamble of line ends"),
        pytest.param(b"x" * 5 * MEGABYTE, id="preamble of text"),
        pytest.param(b"--" * (5 * MEGABYTE // 2), id="preamble of hyphens"),
        pytest.param(form_body(JPEG) + b"\r\n" * (5 * MEGABYTE // 2), id="epilogue"),
        pytest.param(f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 800_000, id="headers of a part"),
        pytest.param(f"--{BOUNDARY}\r\nX: ".encode() + b"y" * 5 * MEGABYTE, id="header of a part"),
        pytest.param(
            form_start() + f"\r\n--{BOUNDARY}".encode()[:-1] * 200_000, id="almost boundaries"
        ),
        pytest.param(f"--{BOUNDARY}\r\n\r\n\r\n".encode() * 160_000, id="empty parts"),
    ],
)
def test_five_megabytes_of_form_without_an_image_cost_little(target: Target, body: bytes) -> None:
    started = time.process_time()
    status, code = target.upload(f"Content-Length: {len(body)}", body=body)
    assert status in {400, 415, 422, 202}, code
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("ends_by", ["FIN", "RST"])
@pytest.mark.parametrize(
    "sent", ["half a head", "head", "half a file", "all but the last byte", "chunk"]
)
def test_client_that_disconnects_leaves_no_row_and_no_file(
    target: Target, ends_by: str, sent: str
) -> None:
    before = count_jobs(target.service)
    body = form_body(JPEG + bytes(2 * MEGABYTE))
    head = upload_head(target.authorization, f"Content-Length: {len(body)}")
    chunked = upload_head(target.authorization, "Transfer-Encoding: chunked")
    parts = {
        "half a head": head[:60],
        "head": head,
        "half a file": head + body[:MEGABYTE],
        "all but the last byte": head + body[:-1],
        "chunk": chunked + chunk(body) + b"0\r\n",
    }
    with wire(target.port) as line:
        line.send(parts[sent])
        time.sleep(0.05)
        if ends_by == "RST":
            line.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not list(target.service.incoming.iterdir()))
    assert count_jobs(target.service) == before


def test_two_hundred_slow_clients_are_disconnected_and_delay_nobody(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 2.0)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 2.0)
    starts = (
        b"GET /livez HTTP/1.1\r\nX: ",
        upload_head(target.authorization, "Content-Length: 9000000") + form_start(),
    )
    with ExitStack() as stack:
        lines = [stack.enter_context(wire(target.port)) for _ in range(200)]
        for number, line in enumerate(lines):
            line.send(starts[number % 2])
        slow = threading.Thread(target=drip, args=(lines,))
        slow.start()
        seconds = sorted(time_request(target, number) for number in range(200))
        assert seconds[197] < 0.5
        slow.join()
        for line in lines:
            assert line.rest().startswith(b"HTTP/1.1 408 ")


def drip(lines: list[Wire]) -> None:
    """Send a byte on every connection every 0.1 s, for longer than the server allows."""
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        for line in lines:
            with suppress(ConnectionError):
                line.send(b"a")
        time.sleep(0.1)


def time_request(target: Target, number: int) -> float:
    paths = (
        "/livez",
        f"/api/v1/images/jobs/{target.image['job_id']}",
        f"/api/v1/images/{target.image['image_id']}/direct",
    )
    started = time.monotonic()
    assert get(target.port, paths[number % len(paths)])[0].status == 200
    return time.monotonic() - started


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param(",".join(f"{start}-{start}" for start in range(10_000)), id="apart"),
        pytest.param("0-," * 10_000, id="overlapping"),
        pytest.param("-1," * 10_000, id="suffixes"),
        pytest.param("9-1," * 10_000, id="backwards"),
        pytest.param(" " * 40_000, id="blanks"),
        pytest.param("-" * 40_000, id="hyphens"),
        pytest.param("0" * 40_000, id="zeros"),
    ],
)
def test_ten_thousand_ranges_are_ignored_cheaply(target: Target, ranges: str) -> None:
    path = f"/api/v1/images/{target.image['image_id']}/direct"
    cpu_seconds = []
    for _ in range(3):  # one of them may include a garbage collection
        started = time.process_time()
        answer, data = get(target.port, path, Range=f"bytes={ranges}")
        cpu_seconds.append(time.process_time() - started)
        assert (answer.status, len(data)) == (200, int(answer.headers["Content-Length"]))
    assert min(cpu_seconds) < 0.05


def test_unexpected_body_is_not_read_as_the_next_request(target: Target) -> None:
    smuggled = b"DELETE /api/v1/images/1 HTTP/1.1\r\nHost: test\r\n\r\n"
    with wire(target.port) as line:
        for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
            length = f"Content-Length: {len(smuggled)}"
            head = f"{method} /livez HTTP/1.1\r\nHost: test\r\n{length}\r\n\r\n"
            line.send(head.encode() + smuggled)
            line.answer(method)
        line.send(b"GET /nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 \d+", line.rest()) == [b"HTTP/1.1 404"]


@pytest.fixture(params=["sqlite", "postgres"])
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The port of two API processes that share one database and have no workers."""
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_KEY": KEY,
        "WORKER_CONCURRENCY": "0",
    }
    settings["RATE_LIMIT_MAX_UPLOADS"] = str(UPLOADS_PER_USER)
    settings["RATE_LIMIT_WINDOW_MINUTES"] = "10080"
    if request.param == "postgres":
        settings["DATABASE_URL"] = create_database(request.getfixturevalue("postgres"))
    port = find_free_port()
    command = [
        sys.executable,
        "-m",
        "imageprocessor",
        "serve",
        "--port",
        str(port),
        "--api-processes",
        "2",
    ]
    with run_server(
        command, port, tmp_path / "serve.log", cwd=tmp_path, env={**os.environ, **settings}
    ):
        wait_until(lambda: get(port, "/readyz")[0].status == 200)
        yield port


def test_rate_limit_is_exact_for_a_hundred_parallel_uploads(
    processes: int,
) -> None:
    settings = Settings.model_validate({"jwt_secret_key": KEY})
    authorization = f"Authorization: Bearer {sign_token(settings, 'ann')}"
    body = form_body(JPEG)

    def upload(key: str) -> tuple[int, dict[str, Any], str]:
        with wire(processes) as line:
            line.send(
                upload_head(
                    authorization, f"Content-Length: {len(body)}", f"Idempotency-Key: {key}"
                )
                + body
            )
            response, answer = line.answer()
            return response.status, json.loads(answer), response.headers["X-RateLimit-Remaining"]

    with ThreadPoolExecutor(100) as pool:
        same = list(pool.map(upload, ["same"] * 20))
        answers = list(pool.map(upload, map(str, range(100))))
    assert {status for status, _, _ in same} == {202}
    assert len({answer["job_id"] for _, answer, _ in same}) == 1
    accepted = [int(remaining) for status, _, remaining in answers if status == 202]
    assert sorted(accepted) == list(range(UPLOADS_PER_USER - 1))
    refused = [
        (status, answer["code"], remaining)
        for status, answer, remaining in answers
        if status != 202
    ]
    assert refused == [(429, "rate_limit_exceeded", "0")] * (100 - len(accepted))
    with wire(processes) as line:
        line.send(b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 1_000 + b"\r\n")
        assert line.answer("GET")[0].status == 431
