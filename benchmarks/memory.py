"""Peak memory of a worker: compared with sharp after one job, and after thousands of jobs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.peers import find_obstacle, node, start
from benchmarks.photo import draw_photo, encode_photo
from benchmarks.workers import count_open, run_workers, submit_image
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from tests.images import animated_webp, encode, photo, truncated
from tests.servers.processes import wait_for

BOUND_MB = 360  #: memory of a worker for a job of 50 MP, according to docs/capacity.md
ENOUGH_ROUNDS = 3  # memory varies little
#: FEW jobs fill what is kept from job to job; 2 000 more must add nothing.
FEW, MANY = 1000, 3000
MANY_SECONDS = 1200
#: Thousands of commits to a disk take minutes, and do not change the worker's memory.
IN_MEMORY = Path("/dev/shm")


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return two rows for each image, and one for a worker after thousands of jobs."""
    if sys.platform != "linux":
        return [Skipped("peak memory", "sharp", "only Linux reports the peak of another process")]
    rows: list[Figure | Skipped] = []
    for name, make in IMAGES.items():
        rows += compare_peaks(name, make(), min(rounds, ENOUGH_ROUNDS))
    few, many = peaks_after(FEW, MANY)
    work, reference = f"peak memory after {MANY} jobs", f"after {FEW} jobs"
    rows.append(compare(work, "MB", [many], reference, [few], at_most=1.05))
    return rows


def compare_peaks(name: str, data: bytes, rounds: int) -> list[Figure | Skipped]:
    """Return the rows that compare one job's peak with sharp's and with the documented one."""
    work, theirs = f"{name} → 4 WebP, peak memory", "sharp, its defaults"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(data)
        command = node("sharp.mjs", str(path))
        obstacle = find_obstacle(command)
        sharp = {} if obstacle else {"sharp": partial(peak_of_peer, command)}
        peaks = interleave({"ours": partial(peak_of_worker, data), **sharp}, rounds)
    documented = [BOUND_MB] * rounds
    bound = compare(work, "MB", peaks["ours"], "the documented bound", documented, at_most=1)
    if obstacle:
        return [Skipped(work, theirs, obstacle), bound]
    return [compare(work, "MB", peaks["ours"], theirs, peaks["sharp"]), bound]


def peak_of_worker(data: bytes) -> float:
    """Return the peak memory, in MB, of a fresh worker process after one job."""
    with TemporaryDirectory() as folder, run_one_worker(Path(folder)) as service:
        return peak_after(service, [data])


def peak_of_peer(command: Sequence[str]) -> float:
    """Return the peak memory, in MB, of a program that does the job once."""
    with start(command) as peer:
        peer.run()
        return read_peak(peer.process.pid)


def peaks_after(few: int, many: int) -> tuple[float, float]:
    """Return one worker's peaks after *few* and *many* jobs of every format, some truncated."""
    images = cycle(draw_mixture())
    disk = IN_MEMORY if IN_MEMORY.exists() else None
    with TemporaryDirectory(dir=disk) as folder, run_one_worker(Path(folder)) as service:
        after_few = peak_after(service, islice(images, few))
        after_many = peak_after(service, islice(images, many - few))
        return after_few, after_many


def peak_after(service: Service, images: Iterable[bytes]) -> float:
    """Return the peak memory of the one worker of *service* after processing *images*."""
    job_ids = [submit_image(service, image) for image in images]
    wait_for(lambda: not count_open(service), MANY_SECONDS)
    return read_peak(find_worker(service, job_ids[-1]))


def find_worker(service: Service, job_id: str) -> int:
    """Return the id of the process that ran the job."""
    with service.database.read() as connection:
        events = outbox.list_events(connection, job_id)
    details = [event["metadata"] for event in events]
    (worker_id,) = [detail["worker"] for detail in details if "worker" in detail]
    return int(worker_id.rpartition(":")[2])


@contextmanager
def run_one_worker(folder: Path) -> Iterator[Service]:
    """Run a worker on the data in *folder*, and yield the service that it works for."""
    settings = Settings(data_dir=folder, rate_limit_max_uploads=MANY)
    with open_service(settings) as service, run_workers(folder, 1):
        yield service


def read_peak(pid: int) -> float:
    """Return the peak memory of the process so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def draw_png(width: int = 8660, height: int = 5770) -> bytes:
    """Return an RGB image as PNG, of large dots; else it would be 100 MB, too large to upload."""
    file = BytesIO()
    small = draw_photo(width // 10, height // 10)
    small.resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def draw_mixture() -> list[bytes]:
    """Return small images of every format and kind."""
    return [
        encode(photo(320, 240), "JPEG", quality=85),
        encode(photo(400, 300), "JPEG", progressive=True),
        encode(photo(160, 120).convert("CMYK"), "JPEG"),
        truncated(encode(photo(300, 200), "JPEG"), 0.6),
        encode(photo(300, 200).convert("RGBA"), "PNG"),
        encode(photo(200, 200).convert("P"), "PNG"),
        encode(photo(600, 400), "WEBP"),
        animated_webp(3, (200, 150)),
    ]


IMAGES: dict[str, Callable[[], bytes]] = {
    "12 MP JPEG": encode_photo,
    "50 MP JPEG": partial(encode_photo, 8660, 5773),
    "50 MP PNG": draw_png,
}
