from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import find_worker, peaks_after, run_one_worker
from benchmarks.workers import count_open, submit_image
from imageprocessor.queue.service import Service
from tests.images import encode, photo, truncated
from tests.servers.processes import wait_for

FEW_MEGABYTES_LEFT = """
import os, resource, signal, sys
from pathlib import Path
from benchmarks.workers import submit_image
from imageprocessor import process
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import open_service
from imageprocessor.queue.attempts import run_job
from imageprocessor.settings import Settings
from tests.images import encode, photo

image = encode(photo(400, 300), "JPEG")
process(image)
with open_service(Settings(data_dir=Path(sys.argv[1]))) as service:
    jobs = [submit_image(service, image) for _ in range(12)]
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for left, job_id in enumerate(jobs):
        if os.fork() == 0:
            signal.alarm(20)
            bound = used + (left * 6 + 1 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
            run_job(service, job_id, "worker")
            os._exit(0)
        assert os.wait()[1] == 0
        with service.database.read() as connection:
            print("outcome", job_store.find_job(connection, job_id).error_code, flush=True)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux reports the peak of another process"
)
def test_worker_memory_does_not_grow_with_its_jobs() -> None:
    """`python -m benchmarks memory` runs two thousand."""
    few, many = peaks_after(24, 120)
    assert many < 1.05 * few


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is configured to keep memory"
)
def test_worker_returns_memory_only_after_a_failed_job(
    tmp_path: Path,
) -> None:
    large = encode(photo(4000, 3000), "JPEG")
    with run_one_worker(tmp_path) as service:
        kept = resident_mb_after(service, large)
        assert (
            kept > resident_mb_after(service, truncated(encode(photo(300, 200), "JPEG"), 0.6)) + 60
        )


def resident_mb_after(service: Service, image: bytes) -> int:
    """Let the single worker process *image*, and return its memory afterwards."""
    job_id = submit_image(service, image)
    wait_for(lambda: not count_open(service))
    pages = int(Path(f"/proc/{find_worker(service, job_id)}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_too_little_memory_for_a_thread_is_memory_exceeded(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FEW_MEGABYTES_LEFT, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    outcomes = [line for line in done.stdout.splitlines() if line.startswith("outcome")]
    assert set(outcomes) == {"outcome memory_exceeded", "outcome None"}, done.stdout
