from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import peaks_after
from imageprocessor.queue.embedded import LARGE_PAGES
from tests.images import encode, photo

WAIT = """
import queue, sys, threading
from imageprocessor import process
from imageprocessor.core.memory import keep_memory
from imageprocessor.queue.child import wait_for_job

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

keep_memory(384 << 20)
jobs = queue.SimpleQueue()
process(sys.argv[1])
print(resident_mb())
for idle_seconds in (5, 0.01):
    threading.Timer(0.5, jobs.put, [("next", 2)]).start()
    assert wait_for_job(jobs, idle_seconds) == ("next", 2)
    print(resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of another process")
def test_memory_of_a_worker_does_not_grow_with_its_jobs() -> None:
    """`python -m benchmarks memory` goes on to two thousand."""
    few, many = peaks_after(24, 120)
    assert many < 1.05 * few


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_memory_of_a_job_is_kept_for_the_next_until_none_comes_for_long(tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encode(photo(4000, 3000), "JPEG"))
    command = [sys.executable, "-c", WAIT, str(picture)]
    environment = os.environ | dict([LARGE_PAGES])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    after_job, kept, given_back = map(int, done.stdout.split())
    assert after_job > given_back + 60
    assert kept > given_back + 60
