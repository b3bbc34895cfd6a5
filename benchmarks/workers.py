"""Jobs per second of two workers, compared with one, and with the same pixels without a service.

The workers run as a user starts them: `imageprocessor worker` on the host of its database, which is
SQLite or, for the small jobs, also PostgreSQL.

WORKER_CONCURRENCY is how many processors the workers use together: one worker encodes in one
thread, and two busy workers in one thread each. (A worker that is busy alone also uses the threads
of the others.)
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory, mkdtemp

from sqlalchemy import select

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.peers import Peer, python, start
from benchmarks.photo import encode_photo
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import OPEN_STATUSES, JobStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.settings import Settings
from tests.servers import create_database, run_postgres
from tests.servers.processes import run_process

WORKERS = 2
JOBS = 12
#: By width and height: how many jobs a batch has, and its budget.
SMALL_JOBS = {(320, 240): (150, 0.80), (640, 480): (60, 0.93), (1600, 1200): (16, 0.96)}
POLL_SECONDS = 0.5  # polling takes CPU time from the workers

#: Returns the URL of a new database; "" for SQLite.
CreateDatabase = Callable[[], str]


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the row for two workers, and one for each size of small jobs.

    They are skipped on a machine with one processor, which a second worker could not use.
    """
    work, reference = "12 MP jobs, two workers", "one worker"
    if (os.cpu_count() or 1) < WORKERS:
        return [Skipped(work, reference, "this machine has one processor")]
    image = encode_photo()
    # ext4 without a journal spends up to 1 ms on each new file while thousands were deleted in the
    # last minutes. So the files of all batches are deleted at the end.
    with TemporaryDirectory() as name, run_postgres(Path(name)) as postgres:
        folder = Path(name)
        batch = partial(run_batch, folder, str)
        counts = {str(count): partial(batch, image, count, JOBS) for count in (1, WORKERS)}
        speeds = interleave(counts, rounds)
        rows: list[Figure | Skipped] = [
            compare(work, "jobs/s", speeds["2"], reference, speeds["1"], at_least=1.85)
        ]
        databases: dict[str, CreateDatabase] = {
            "SQLite": str,
            "PostgreSQL": partial(create_database, postgres.port),
        }
        for size in SMALL_JOBS:
            rows += compare_with_bare(folder, databases, size, rounds)
    return rows


def compare_with_bare(
    folder: Path, databases: Mapping[str, CreateDatabase], size: tuple[int, int], rounds: int
) -> Iterator[Figure]:
    """Yield a row for each database: queued jobs against the same pixels without a service."""
    image = encode_photo(*size)
    job_count, budget = SMALL_JOBS[size]
    contenders = {
        name: partial(run_batch, folder, create, image, WORKERS, job_count)
        for name, create in databases.items()
    }
    speeds = interleave({**contenders, "bare": partial(run_bare, image, job_count)}, rounds)
    for name in databases:
        yield compare(
            f"{size[0]}×{size[1]} jobs, two workers, {name}",
            "jobs/s",
            speeds[name],
            "process() in two processes",
            speeds["bare"],
            at_least=budget if name == "SQLite" else None,
        )


def run_bare(image: bytes, job_count: int) -> float:
    """Process *image* in as many processes as workers; return the images per second."""
    share = job_count // WORKERS

    def run_share(peer: Peer) -> None:
        for _ in range(share):
            peer.run()

    with NamedTemporaryFile() as file, ExitStack() as running, ThreadPoolExecutor(WORKERS) as pool:
        file.write(image)
        file.flush()
        command = python("ours.py", file.name, "1")
        peers = [running.enter_context(start(command)) for _ in range(WORKERS)]
        for peer in peers:
            peer.run()
        started = time.perf_counter()
        list(pool.map(run_share, peers))
        return WORKERS * share / (time.perf_counter() - started)


def run_batch(
    folder: Path, create: CreateDatabase, image: bytes, worker_count: int, job_count: int
) -> float:
    """Submit jobs, start the workers, and return the jobs per second that they complete.

    The time starts when a quarter of the jobs are completed, by when every worker has started.
    """
    data, url = Path(mkdtemp(dir=folder)), create()
    settings = Settings.model_validate(
        {"data_dir": data, "database_url": url or None, "rate_limit_max_uploads": job_count}
    )
    with open_service(settings) as service:
        for _ in range(job_count):
            submit_image(service, image)
        with run_workers(data, worker_count, url) as process:
            while process.poll() is None and count_open(service):
                time.sleep(POLL_SECONDS)
        ends = sorted(end for _, end in list_times(service))
    assert len(ends) == job_count, "not all jobs completed, so the ratio would mean nothing"
    early = job_count // 4
    seconds: float = (ends[-1] - ends[early - 1]).total_seconds()
    return (job_count - early) / seconds


def submit_image(service: Service, image: bytes) -> str:
    """Submit *image* to the service as an upload, and return its job's id."""
    path = service.incoming / uuid.uuid4().hex
    path.write_bytes(image)
    job, _ = submit(
        service, Upload(path, hashlib.sha256(image).hexdigest(), "photos"), Sender("benchmark")
    )
    return job.job_id


def run_workers(
    folder: Path, worker_count: int, url: str = ""
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run *worker_count* embedded workers on the data in *folder* until the end of the context."""
    environ = {
        **os.environ,
        "DATA_DIR": str(folder),
        "DATABASE_URL": url,
        "WORKER_CONCURRENCY": str(worker_count),
    }
    command = [sys.executable, "-m", "imageprocessor", "worker"]
    return run_process(command, folder / "worker.log", stop=signal.SIGTERM, env=environ, cwd=folder)


def count_open(service: Service) -> int:
    """Return how many jobs have not ended."""
    with service.database.read() as connection:
        counts = job_store.count_by_status(connection)
    return sum(counts[status] for status in OPEN_STATUSES)


def list_times(service: Service) -> list[tuple[datetime, datetime]]:
    """Return the start and completion time of each completed job."""
    completed = jobs.c.status == JobStatus.COMPLETED
    with service.database.read() as connection:
        rows = connection.execute(select(jobs.c.started_at, jobs.c.completed_at).where(completed))
        return [(clock.from_text(start), clock.from_text(end)) for start, end in rows]
