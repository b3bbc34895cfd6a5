"""How long after the finish of a job its webhook arrives, at 50 finishes a second.

The finishes are driven without pixels, because two processors would measure themselves. As in a
running service, one process finishes jobs, another sends webhooks, and a third receives them.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from sqlalchemy import insert

from benchmarks.figures import Figure, Skipped, compare
from benchmarks.photo import encode_photo
from benchmarks.workers import submit_image
from imageprocessor.core.appearance.placeholder import Placeholder
from imageprocessor.core.geometry import Dimensions
from imageprocessor.core.pipeline import ProcessedImage
from imageprocessor.logs import configure_logs
from imageprocessor.queue.attempts import Attempt, claim_next, finish_attempt
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import webhook_endpoints
from imageprocessor.queue.events.webhook_request import make_secret
from imageprocessor.queue.events.webhook_sender import WebhookSender
from imageprocessor.queue.jobs.webhooks import Endpoint
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.storage.side_by_side import open_store_pool
from tests.servers.webhook_receiver import WebhookReceiver

JOBS = 500
FINISHES_PER_SECOND = 50
MEDIAN_MS, P99_MS = 100.0, 1000.0  #: budgets
NO_PIXELS = ProcessedImage(
    variants={},
    palette=("#000000",),
    placeholder=Placeholder("", ""),
    has_alpha=False,
    animated=False,
    original_dimensions=Dimensions(1, 1),
)


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return a row for the median and one for the 99th percentile; budgets are the reference."""
    configure_logs("console", "WARNING")
    delays = [measure_delays() for _ in range(rounds)]
    medians = [median(round_delays) for round_delays in delays]
    slowest = [quantiles(round_delays, n=100)[-1] for round_delays in delays]
    work = f"webhook after the finish, {FINISHES_PER_SECOND} finishes/s"
    return [
        compare(f"{work}, median", "ms", medians, "100 ms", [MEDIAN_MS] * rounds, at_most=1.0),
        compare(f"{work}, 99 of 100", "ms", slowest, "1 s", [P99_MS] * rounds, at_most=1.0),
    ]


def measure_delays() -> list[float]:
    """Finish JOBS jobs; return how many milliseconds after each its webhook arrived."""
    with TemporaryDirectory() as folder, ExitStack() as running:
        settings = Settings(data_dir=Path(folder), rate_limit_max_uploads=JOBS)
        receiver = running.enter_context(run(receive))
        service = running.enter_context(open_service(settings))
        image = encode_photo(32, 24)
        for _ in range(JOBS):
            submit_image(service, image)
        add_endpoint(service, receiver.recv())
        sender = running.enter_context(run(send, settings))
        sender.recv()
        finished = finish_jobs(service)
        arrived: dict[str, float] = receiver.recv()
    return [1000 * (arrived[job_id] - moment) for job_id, moment in finished.items()]


def add_endpoint(service: Service, url: str) -> None:
    endpoint = Endpoint(
        name="benchmark",
        url=url,
        secret=make_secret(),
        created_at=clock.utc_now(),
        event_types=("image.completed",),
        allows_private=True,
    )
    with service.database.write() as connection:
        connection.execute(insert(webhook_endpoints).values(endpoint.to_row()))


def finish_jobs(service: Service) -> dict[str, float]:
    """Finish all jobs, evenly spaced; return when each finish was committed."""
    finished: dict[str, float] = {}
    due = time.monotonic()
    with open_store_pool() as pool:
        while job := claim_next(service, "benchmark"):
            due += 1 / FINISHES_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            finish_attempt(service, Attempt(job, time.perf_counter(), {}, NO_PIXELS), pool)
            finished[job.job_id] = time.time()
    return finished


@contextmanager
def run(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run *target* in a process of its own during the body; yield a pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=target, args=[its, *arguments])
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def receive(pipe: Connection) -> None:
    """Report the URL of a receiver, then when each of JOBS webhooks arrived."""
    with WebhookReceiver() as receiver:
        pipe.send(receiver.url)
        requests = receiver.wait_for(JOBS, 600)
        pipe.send({json.loads(request.body)["job_id"]: request.time for request in requests})
        threading.Event().wait()


def send(pipe: Connection, settings: Settings) -> None:
    """Send webhooks, and report that this begins."""
    configure_logs("console", "WARNING")
    with open_service(settings, creates=False) as service:
        pipe.send(None)
        WebhookSender(service).run()
