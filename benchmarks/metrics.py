"""Measure what metrics cost: `python -m benchmarks.metrics`.

CPU time of a status check, without uvicorn, with and without METRICS_TOKEN in turns; and of a
scrape with a million finished jobs, and 64 slots that have counted everything. JOBS=1000 fills the
database with fewer.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI

from benchmarks.photo import encode_photo
from benchmarks.rows import fill
from benchmarks.workers import submit_image
from imageprocessor.core.pipeline import STEPS
from imageprocessor.logs import configure_logs
from imageprocessor.queue.exposition import render_metrics
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.metrics.counts import Counts
from imageprocessor.queue.metrics.families import (
    JOBS,
    STAGE_SECONDS,
    STORAGE_SECONDS,
)
from imageprocessor.queue.metrics.storage_times import OPERATIONS
from imageprocessor.queue.service import open_service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings

PAIRS, REQUESTS_PER_PAIR = 15, 300
SLOTS, SCRAPES = 64, 30
ROWS = int(os.environ.get("JOBS", "1000000"))
FAILURES = 20  #: codes of errors
T_14 = 2.145  #: of Student's distribution, for 95 % and 15 pairs

Send = Callable[[], Awaitable[None]]


def main() -> None:
    """Print both costs."""
    configure_logs("json", "ERROR")
    asyncio.run(compare_requests())
    measure_scrapes()


async def compare_requests() -> None:
    with TemporaryDirectory() as folder:
        values = {"data_dir": Path(folder), "worker_concurrency": 0}
        off = Settings.model_validate(values)
        on = Settings.model_validate({**values, "metrics_token": "a-token-of-a-benchmark"})
        with open_service(off) as service:
            job_id = submit_image(service, encode_photo(80, 60))
        async with AsyncExitStack() as opened:
            send_off = await start(opened, off, job_id)
            send_on = await start(opened, on, job_id)
            await compare(send_off, send_on)
            costs = [await compare(send_off, send_on) for _ in range(PAIRS)]
    half = T_14 * statistics.stdev(costs) / PAIRS**0.5
    mean = statistics.mean(costs)
    print(
        f"a request: {mean:.1f} µs (95 %: {mean - half:.1f} to {mean + half:.1f}), "
        f"median {statistics.median(costs):.1f}"
    )


async def start(opened: AsyncExitStack, settings: Settings, job_id: str) -> Send:
    """Start an application, and return what sends it a status check."""
    app: FastAPI = create_app(settings)
    state = await opened.enter_async_context(app.router.lifespan_context(app))
    path = f"/api/v1/images/jobs/{job_id}"
    statuses: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def note(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def send() -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"test")],
            "state": dict(state or {}),
        }
        await app(scope, receive, note)
        assert statuses.pop() == 200

    return send


async def compare(send_off: Send, send_on: Send) -> float:
    """Return the microseconds that metrics add: the difference of the medians of single requests.

    Their means differ by more from run to run, on a machine that does anything else.
    """
    off: list[float] = []
    on: list[float] = []
    for number in range(REQUESTS_PER_PAIR):
        turns = [(send_off, off), (send_on, on)]
        for send, seconds in turns if number % 2 else reversed(turns):
            began = time.thread_time()
            await send()
            seconds.append(time.thread_time() - began)
    return (statistics.median(on) - statistics.median(off)) * 1e6


def measure_scrapes() -> None:
    with TemporaryDirectory() as folder:
        settings = Settings.model_validate({"data_dir": Path(folder), "metrics_port": 1})
        with open_service(settings) as service:
            fill(service.database, ROWS)
            store_snapshot(service.database)
            routes: list[Any] = create_app(settings).state.routes
            slots = [Counts(settings.metrics_directory) for _ in range(SLOTS)]
            for counts in slots:
                count_everything(counts, routes)
            costs, page = [], ""
            for _ in range(SCRAPES):
                began = time.process_time()
                page = render_metrics(service)
                costs.append((time.process_time() - began) * 1000)
    samples = sum(not line.startswith("#") for line in page.splitlines())
    print(
        f"a scrape of {samples} samples, {SLOTS} slots and {ROWS:,} jobs: "
        f"median {statistics.median(costs):.1f} ms, lowest {min(costs):.1f} ms"
    )


def count_everything(counts: Counts, routes: list[Any]) -> None:
    """Count each route, with three statuses, and whatever else a process may count."""
    for route in routes:
        for method in sorted(route.methods):
            for status in (200, 404, 503):
                counts.count_request(method, route.path_format, status, 0.1)
    for number in range(FAILURES):
        counts.add(JOBS, "failed", f"code_{number}")
    for stage in ("load", *(step.__name__ for step in STEPS), "store", "complete"):
        counts.observe(STAGE_SECONDS, 0.1, stage)
    for operation in OPERATIONS:
        counts.observe(STORAGE_SECONDS, 0.1, "local", operation)


if __name__ == "__main__":
    main()
