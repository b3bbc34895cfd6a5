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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_memory_of_a_job_is_kept_for_the_next_until_none_comes_for_long(tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encode(photo(4000, 3000), "JPEG"))
    command = [sys.executable, "-c", IDLE, str(picture)]
    environment = os.environ | dict([LARGE_PAGES])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    *kept, given_back = map(int, done.stdout.split())
    assert min(kept) > 2 * given_back
