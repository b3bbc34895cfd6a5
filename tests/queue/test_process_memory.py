from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from imageprocessor.queue.process_memory import LARGE_PAGES
from tests.images import encode, photo

IDLE = """
import sys, time
from imageprocessor import process
from imageprocessor.queue.process_memory import bound_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

note_job_end = bound_memory(3072, idle_seconds=2)
for pause_seconds in (0.1, 0.1, 4):
    process(sys.argv[1])
    note_job_end()
    time.sleep(pause_seconds)
    print(resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory on request")
def test_memory_is_kept_between_jobs_and_returned_when_idle(tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(encode(photo(4000, 3000), "JPEG"))
    command = [sys.executable, "-c", IDLE, str(image)]
    environment = os.environ | dict([LARGE_PAGES])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    *kept, returned = map(int, done.stdout.split())
    assert min(kept) > 2 * returned
