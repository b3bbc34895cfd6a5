"""Jobs per second of two workers compared with one.

Both run as a user starts them: `imageprocessor worker` on the host of its database.

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
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.photo import encode_photo
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import OPEN_STATUSES, JobStatus
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.settings import Settings
from tests.servers.processes import run_process

JOBS = 12
POLL_SECONDS = 0.5  # polling takes CPU time from the workers


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the row for two workers.

    It is skipped on a machine with one processor, which a second worker could not use.
    """
    work, reference = "12 MP jobs, two workers", "one worker"
    if (os.cpu_count() or 1) < 2:
        return [Skipped(work, reference, "this machine has one processor")]
    speeds = interleave(
        {str(count): partial(run_batch, encode_photo(), count) for count in (1, 2)}, rounds
    )
    return [compare(work, "jobs/s", speeds["2"], reference, speeds["1"], at_least=1.85)]


def run_batch(image: bytes, worker_count: int) -> float:
    """Submit jobs, start the workers, and return the jobs per second that they complete.

    The time starts when each worker has completed its first job.
    """
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), rate_limit_max_uploads=JOBS)
        with open_service(settings) as service:
            for _ in range(JOBS):
                submit_image(service, image)
            with run_workers(Path(folder), worker_count) as process:
                while process.poll() is None and count_open(service):
                    time.sleep(POLL_SECONDS)
            ends = sorted(end for _, end in list_times(service))
    assert len(ends) == JOBS, "not all jobs completed, so the ratio would mean nothing"
    seconds: float = (ends[-1] - ends[worker_count - 1]).total_seconds()
    return (JOBS - worker_count) / seconds


def submit_image(service: Service, image: bytes) -> str:
    """Submit *image* to the service as an upload, and return its job's id."""
    path = service.incoming / uuid.uuid4().hex
    path.write_bytes(image)
    job, _ = submit(
        service, Upload(path, hashlib.sha256(image).hexdigest(), "photos"), Sender("benchmark")
    )
    return job.job_id


def run_workers(folder: Path, worker_count: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run *worker_count* embedded workers on the data in *folder* until the end of the context."""
    environ = {**os.environ, "DATA_DIR": str(folder), "WORKER_CONCURRENCY": str(worker_count)}
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
