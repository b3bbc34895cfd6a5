"""A hanging storage delays only the requests that need it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from imageprocessor.server import threads
from imageprocessor.server.routes import health
from imageprocessor.server.threads import StorageThreads
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.server.live import form_body, get, serve, upload_head, wire
from tests.servers.faults import FaultyProxy, run_faulty_proxy
from tests.storage.buckets import create_bucket

UPLOADS = 60
QUICK_SECONDS = 1.0


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyProxy]:
    with run_faulty_proxy(urlsplit(s3).port or 0) as running:
        yield running


@pytest.fixture
def settings(make_settings: Callable[..., Settings], s3: str, proxy: FaultyProxy) -> Settings:
    return make_settings(
        storage_backend="s3",
        s3_bucket=create_bucket(s3),
        s3_endpoint_url=proxy.url,
        aws_access_key_id="AKIDTEST",
        aws_secret_access_key="secret",
        rate_limit_max_uploads=200,
    )


@pytest.fixture
def send(
    settings: Settings, jpeg: bytes
) -> Callable[[int], tuple[int, dict[str, Any], str | None]]:
    """Return a function that uploads an image and returns status, body and Retry-After."""
    body = form_body(jpeg)
    head = upload_head(
        f"Authorization: Bearer {sign_token(settings, 'ann')}", f"Content-Length: {len(body)}"
    )

    def upload(port: int) -> tuple[int, dict[str, Any], str | None]:
        with wire(port) as line:
            line.send(head + body)
            response, received = line.answer()
            return response.status, json.loads(received), response.getheader("Retry-After")

    return upload


def test_hanging_uploads_do_not_slow_down_other_requests(
    settings: Settings,
    proxy: FaultyProxy,
    send: Callable[[int], tuple[int, dict[str, Any], str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.5)
    with serve(settings) as port, ThreadPoolExecutor(UPLOADS) as pool:
        waiting = send(port)[1]
        proxy.fail("hang")
        uploads = [pool.submit(send, port) for _ in range(UPLOADS)]
        done, held = wait(uploads, timeout=3)
        assert len(held) == threads.MAX_STORAGE_THREADS
        probes = [pool.submit(get, port, path) for path in ("/readyz", "/api/v1/health") * 20]
        for path, status in (
            ("/livez", 200),
            ("/api/v1/health/stats", 200),
            (waiting["status_url"], 200),
            (f"{waiting['status_url']}/result", 409),
            (f"/api/v1/images/{waiting['image_id']}/all", 409),
        ):
            started = time.monotonic()
            assert get(port, path)[0].status == status
            assert time.monotonic() - started < QUICK_SECONDS
        assert {probe.result(timeout=3)[0].status for probe in probes} == {503}
        for upload in done:
            status, problem, retry_after = upload.result()
            assert (status, problem["code"], retry_after) == (503, "storage_unavailable", "5")
        proxy.fail("none")
        proxy.ended.set()
        assert {upload.result()[0] for upload in held} == {202}
        assert send(port)[0] == 202
    assert list((settings.data_dir / "incoming").iterdir()) == []


def test_call_may_run_longer_than_the_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WAIT_SECONDS", 0.05)

    def answer_late() -> str:
        time.sleep(0.2)
        return "late"

    async def call() -> str:
        return await StorageThreads().run(answer_late)

    assert asyncio.run(call()) == "late"


def test_timeout_raised_by_the_call_is_passed_through() -> None:
    def time_out() -> None:
        raise TimeoutError("of the call")

    async def call() -> None:
        await StorageThreads().run(time_out)

    with pytest.raises(TimeoutError, match="of the call"):
        asyncio.run(call())


def test_request_can_end_while_its_call_hangs() -> None:
    released = threading.Event()

    async def give_up() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await StorageThreads().run(released.wait)
        released.set()

    asyncio.run(asyncio.wait_for(give_up(), 5))
    assert released.is_set()
