"""One limit of memory fits every picture that is permitted. WORST_IMAGES=all: all of them, half a minute each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import imageprocessor as ip
from imageprocessor.settings import Settings
from tests.hostile.worst import WORST

KINDS = WORST if os.environ.get("WORST_IMAGES") == "all" else ("JPEG", "PNG, gray of 16 bits")
PROCESS = """
import sys
from imageprocessor.core.pipeline import process
from imageprocessor.queue.child import limit_memory, run_job

limit_memory(int(sys.argv[1]))
image = process(sys.argv[2])
print(len(image.variants), [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmPeak")][0])
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_worst_permitted_picture_fits_into_the_default_limit(kind: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(WORST[kind]())
    info = ip.validate(picture)
    assert info.width * info.height > 0.999 * Settings().limits.max_pixels or kind == "PNG, narrow"
    command = [sys.executable, "-c", PROCESS, str(Settings().job_memory_limit_mb), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, peak_kib = map(int, done.stdout.split())
    print(f"{kind}: {peak_kib // 1024} MB of {Settings().job_memory_limit_mb} MB")  # noqa: T201 - with -rP
    assert made == len(Settings().image_sizes)
