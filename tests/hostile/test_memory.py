"""Every permitted image fits into the default memory limit.

WORST_IMAGES=all tests all of the worst images, half a minute each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import imageprocessor as ip
from imageprocessor.core.formats.registry import list_installed_mime_types
from imageprocessor.queue.process_memory import LARGE_PAGES
from imageprocessor.settings import Settings
from tests.hostile.worst import WORST
from tests.images import encode, photo, png_bomb, webp_claiming

KINDS = WORST if os.environ.get("WORST_IMAGES") == "all" else ("JPEG", "PNG, gray of 16 bits")
PROCESS = """
import os, sys
from imageprocessor.core.formats.registry import list_installed_mime_types
from imageprocessor.core.limits import Limits
from imageprocessor.core.pipeline import process
import imageprocessor.queue.attempts  # loaded in every worker
from imageprocessor.queue.process_memory import bound_memory

bound_memory(int(sys.argv[1]))
os.cpu_count = lambda: 16  # encode all sizes at once
process(sys.argv[3])  # an earlier job, whose memory may be kept
image = process(sys.argv[2], limits=Limits(mime_types=frozenset(list_installed_mime_types())))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(len(image.variants), status["VmPeak"].split()[0])
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory limits need Linux")


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_worst_permitted_image_fits_the_default_memory_limit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(WORST[kind]())
    info = ip.validate(path, ip.Limits(mime_types=frozenset(list_installed_mime_types())))
    assert info.width * info.height > 0.999 * Settings().limits.max_pixels or kind == "PNG, narrow"
    usual = tmp_path / "usual"
    usual.write_bytes(encode(photo(4000, 3000), "JPEG"))
    command = [
        sys.executable,
        "-c",
        PROCESS,
        str(Settings().job_memory_limit_mb),
        str(path),
        str(usual),
    ]
    environment = os.environ | dict([LARGE_PAGES])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, peak_kib = map(int, done.stdout.split())
    print(f"{kind}: {peak_kib // 1024} MB of {Settings().job_memory_limit_mb} MB")  # noqa: T201 - with -rP
    assert made == len(Settings().image_sizes)
    assert peak_kib / 1024 < 0.9 * Settings().job_memory_limit_mb, (
        "too little memory is left for what earlier jobs leave allocated"
    )


REFUSE = """
import sys
from imageprocessor.core.pipeline import process
from imageprocessor.errors import InputError
import imageprocessor.queue.attempts  # loaded in every worker
from imageprocessor.queue.process_memory import bound_memory

bound_memory(int(sys.argv[1]))
try:
    process(sys.argv[2])
except InputError as error:
    print(error.code)
"""


@on_linux
@pytest.mark.parametrize(
    ("make", "code"), [(png_bomb, "image_truncated"), (webp_claiming, "image_invalid")]
)
def test_damage_is_not_reported_as_lack_of_memory(
    make: Callable[[int, int], bytes], code: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make(4096, 12207))
    command = [sys.executable, "-c", REFUSE, str(Settings().job_memory_limit_mb), str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{code}\n"
