"""`imageprocessor serve` under load, against the bare framework (benchmarks/reference_app.py).

Each is a process of its own with the same uvicorn options; benchmarks/load.py loads them in
alternation. Requests per second depend on what else the machine is doing; CPU time per request
hardly does.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.photo import encode_photo
from benchmarks.requests import SECRET, get, make_token, upload
from benchmarks.statements import count_statements
from benchmarks.workers import submit_image
from imageprocessor.logs import configure_logs
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from tests.servers import find_free_port, run_server

CONSTANT = "the same route returning a constant"
DURABLE = "form, two flushes, one FULL commit"
READS, UPLOADS = 1500, 200  #: requests per turn
BATCH, BATCHES = 20, 4  #: images in a batch, batches per turn
#: Rounds run per round requested: short ones, because a shared machine changes less meanwhile.
ROUND_FACTOR = 3
READERS, UPLOADERS = 16, 8  #: connections
PHOTO_SIDE = 660  #: pixels; the JPEG is 100 KB
WAITS, STREAMS = 500, 200  #: open beside other requests
CROWD_MB = 150.0
CROWD_FILES = 4096  #: descriptors: a process gives half of its connections to waiting requests
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its port and its process."""

    port: int
    process_id: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mb(self) -> float:
        pages = Path(f"/proc/{self.process_id}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of one turn; times are in milliseconds per request."""

    per_second: float
    cpu: float
    p50: float
    p99: float


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return the rows for the service."""
    raise_file_limit()
    with TemporaryDirectory() as folder, ExitStack() as servers:
        photo = encode_photo(PHOTO_SIDE, PHOTO_SIDE)
        waiting, done = prepare(Path(folder), photo)
        ours = servers.enter_context(run_service(Path(folder)))
        two = servers.enter_context(run_service(Path(folder), processes=2))
        # Data of its own: the streams would otherwise be sent every upload of the other turns.
        crowd_folder = Path(folder) / "crowd"
        crowd_waiting, _ = prepare(crowd_folder, photo)
        crowded = servers.enter_context(run_service(crowd_folder))
        crowded_mb = crowded.resident_mb()
        servers.enter_context(hold_crowd(crowded, crowd_waiting))
        bare = servers.enter_context(run_reference(Path(folder)))
        status = get(f"/api/v1/images/jobs/{waiting}")
        crowd_status = get(f"/api/v1/images/jobs/{crowd_waiting}")
        result = get(f"/api/v1/images/jobs/{done.job_id}/result")
        image = get(f"/api/v1/images/{done.image_id}")
        assert done.variant_keys
        file = get(f"/storage/{done.variant_keys['thumbnail']}")
        reads = partial(load, connections=READERS, requests=READS, status=200)
        uploads = partial(load, connections=UPLOADERS, requests=UPLOADS, status=202)
        batches = partial(load, connections=1, requests=BATCHES, status=207)
        singles = partial(load, connections=1, requests=BATCH * BATCHES, status=202)
        contenders = {
            "constant": partial(reads, bare, get("/jobs/1")),
            "status": partial(reads, ours, status),
            "crowded": partial(reads, crowded, crowd_status),
            "result": partial(reads, ours, result),
            "image": partial(reads, ours, image),
            "file": partial(reads, ours, file),
            "two processes": partial(reads, two, status),
            "durable": partial(uploads, bare, upload("/upload", photo)),
            "upload": partial(uploads, ours, upload("/api/v1/images/upload", photo)),
            "single": partial(singles, ours, upload("/api/v1/images/upload", photo)),
            "batch": partial(batches, ours, upload("/api/v1/images/batch", photo, BATCH)),
        }
        turns = interleave(contenders, ROUND_FACTOR * rounds)
        memory = compare(
            f"memory of {WAITS} waiting requests and {STREAMS} streams",
            "MB",
            [crowded.resident_mb() - crowded_mb],
            "their budget",
            [CROWD_MB],
            at_most=1.0,
        )
    return [*compare_loads(turns), memory, *count_statements(photo)]


def raise_file_limit() -> None:
    """Let each server that is started from here keep CROWD_FILES open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, CROWD_FILES)), hard))


def compare_loads(turns: dict[str, list[Load]]) -> Iterable[Figure]:
    """Yield the rows that compare one load with another."""
    yield from compare_pair(turns, "status", "constant", "status check", CONSTANT, at_least=0.50)
    yield from compare_pair(turns, "upload", "durable", "upload of 100 KB", DURABLE, at_least=0.60)
    yield compare(
        f"batch of {BATCH} × 100 KB",
        "images/s",
        [turn.per_second * BATCH for turn in turns["batch"]],
        f"{BATCH} uploads, one after another",
        per_second(turns["single"]),
        at_least=2.5,
    )
    for name in ("result", "image", "file"):
        yield compare(
            f"{name} read",
            "requests/s",
            per_second(turns[name]),
            CONSTANT,
            per_second(turns["constant"]),
        )
    yield compare(
        f"status check beside {WAITS} waiting requests and {STREAMS} streams",
        "requests/s",
        per_second(turns["crowded"]),
        "without them",
        per_second(turns["status"]),
        at_least=0.90,
    )
    two, one = per_second(turns["two processes"]), per_second(turns["status"])
    yield compare("status check, two API processes", "requests/s", two, "one API process", one)


def compare_pair(
    turns: dict[str, list[Load]],
    name: str,
    reference: str,
    work: str,
    described: str,
    *,
    at_least: float,
) -> Iterable[Figure]:
    """Yield the rows for one route: requests per second, CPU time and latency."""
    ours, theirs = turns[name], turns[reference]
    yield compare(
        work, "requests/s", per_second(ours), described, per_second(theirs), at_least=at_least
    )
    for field, title in (("cpu", "CPU time"), ("p50", "p50"), ("p99", "p99")):
        our_values = [getattr(turn, field) for turn in ours]
        their_values = [getattr(turn, field) for turn in theirs]
        yield compare(f"{work}, {title}", "ms", our_values, described, their_values)


def per_second(turns: list[Load]) -> list[float]:
    return [turn.per_second for turn in turns]


def prepare(folder: Path, photo: bytes) -> tuple[str, Job]:
    """Create the service's data; return the id of a waiting job, and a completed job."""
    configure_logs("console", "WARNING")
    with open_service(Settings(data_dir=folder / "data")) as service:
        waiting, done = submit_image(service, photo), submit_image(service, photo)
        run_job(service, done, "benchmark")
        return waiting, read_job(service, done, OPERATOR)


@contextmanager
def run_service(folder: Path, processes: int = 1) -> Iterator[Server]:
    """Run `imageprocessor serve` without workers; its log goes to a file."""
    port = find_free_port()
    settings = {
        "DATA_DIR": str(folder / "data"),
        "JWT_SECRET_KEY": SECRET,
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
        "WORKER_CONCURRENCY": "0",
    }
    environment = os.environ | settings
    options = ["--port", str(port), "--api-processes", str(processes)]
    command = [sys.executable, "-m", "imageprocessor", "serve", *options]
    with run_server(command, port, folder / f"{port}.log", env=environment) as server:
        yield Server(port, server.process.pid)


@contextmanager
def hold_crowd(server: Server, waiting: str) -> Iterator[None]:
    """Hold requests open on *server* that wait for the job *waiting*, and event streams."""
    wait = get(f"/api/v1/images/jobs/{waiting}?wait=30").decode()
    follow = get("/api/v1/events").decode().replace("*/*", "text/event-stream")
    token = f"Authorization: Bearer {make_token()}\r\nAccept"
    crowd = [(WAITS, wait), (STREAMS, follow.replace("Accept", token))]
    command = [sys.executable, "-m", "benchmarks.crowd", str(server.port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(crowd) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "open\n"
        yield


@contextmanager
def run_reference(folder: Path) -> Iterator[Server]:
    """Run the bare framework with the same uvicorn options as `imageprocessor serve`."""
    port = find_free_port()
    environment = os.environ | {"DATA_DIR": str(folder)}
    options = ["--no-access-log", "--log-level", "warning", "--no-server-header", "--ws", "none"]
    options += ["--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.reference_app:app", *options]
    with run_server(command, port, folder / f"{port}.log", env=environment) as server:
        yield Server(port, server.process.pid)


def load(server: Server, request: bytes, *, connections: int, requests: int, status: int) -> Load:
    """Send *request* *requests* times in total, and expect *status* each time."""
    arguments = [str(server.port), str(connections), str(requests)]
    command = [sys.executable, "-m", "benchmarks.load", *arguments]
    started = server.cpu_seconds()
    ran = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True, timeout=300)
    cpu = (server.cpu_seconds() - started) / requests * 1000
    report = json.loads(ran.stdout)
    assert report["statuses"] == {str(status): requests}, report["statuses"]
    return Load(requests / report["seconds"], cpu, report["p50"], report["p99"])
