from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from imageprocessor.core.memory import require_memory
from tests.core.pngs import GRAY, GRAY_ALPHA, RGBA
from tests.engine import require_pillow
from tests.hostile.worst import noisy_png
from tests.images import PRIVATE_PROFILE, encode, photo

SMALL = photo(20, 20).resize((2000, 2000))
FADING = SMALL.copy()
FADING.putalpha(Image.linear_gradient("L").resize(FADING.size))
IMAGES = {
    "jpeg": encode(SMALL, "JPEG", icc_profile=PRIVATE_PROFILE),
    "progressive jpeg": encode(SMALL, "JPEG", progressive=True),
    "cmyk jpeg": encode(SMALL.convert("CMYK"), "JPEG", progressive=True),
    "png": encode(FADING, "PNG"),
    "palette png": encode(SMALL.quantize(99), "PNG"),
    "interlaced png": noisy_png(2000, 2000, 8, RGBA, interlaced=True),
    "gray png of 16 bits": noisy_png(2000, 2000, 16, GRAY),
    "gray png with alpha": noisy_png(2000, 2000, 16, GRAY_ALPHA),
    "webp": encode(SMALL, "WEBP", icc_profile=PRIVATE_PROFILE),
    "webp with alpha": encode(FADING, "WEBP"),
    "lossless webp": encode(FADING, "WEBP", lossless=True, quality=20),
    "animated webp": encode(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)]),
}
UNDER_LIMITS = """
import os, resource, signal, sys
import imageprocessor as ip
work, image, *warm_up = getattr(ip, sys.argv[1]), *sys.argv[2:]
for small in warm_up:
    ip.dominant_color(small)
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
for extra in range(1 << 20, 80 << 20, 8 << 20):
    if os.fork() == 0:
        signal.alarm(20)
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
        try:
            work(image)
        except MemoryError:
            os._exit(7)
        except BaseException:
            os._exit(9)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
OUT_OF_MEMORY, FINE = "7", "0"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory limits need Linux")


def outcomes(work: str, data: bytes, folder: Path) -> Counter[str]:
    """Count the outcomes of *work* under memory limits from too small to large enough."""
    if data.startswith(b"RIFF"):
        require_pillow(
            (12, 3), "a WebP that did not fit into memory ended the process with a signal"
        )
    files = [folder / name for name in ("image", "a.jpg", "b.webp")]
    for path, content in zip(
        files, (data, *(encode(photo(9, 9), kind) for kind in ("JPEG", "WEBP"))), strict=True
    ):
        path.write_bytes(content)
    command = [sys.executable, "-c", UNDER_LIMITS, work, *map(str, files)]
    return Counter(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )


@on_linux
@pytest.mark.parametrize("kind", IMAGES)
def test_a_decoder_without_enough_memory_raises_memory_error(kind: str, tmp_path: Path) -> None:
    ended = outcomes("dominant_color", IMAGES[kind], tmp_path)
    assert set(ended) == {OUT_OF_MEMORY, FINE}


@on_linux
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_threads_and_encoders_without_enough_memory_raise_memory_error(
    kind: str, tmp_path: Path
) -> None:
    assert set(outcomes("process", IMAGES[kind], tmp_path)) <= {OUT_OF_MEMORY, FINE}


def test_an_impossible_amount_of_memory_is_refused() -> None:
    require_memory(1 << 20, "for a test")
    with pytest.raises(MemoryError, match="Cannot allocate 4611686018427387904 bytes for a test"):
        require_memory(1 << 62, "for a test")
