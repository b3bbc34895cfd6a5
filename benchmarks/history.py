"""What a million finished jobs cost: every route, the start and an idle sweep.

Each is compared with the same on a database that has a thousand, on SQLite and on PostgreSQL.
HISTORY_JOBS=100000 fills the database with fewer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Skipped, compare, interleave
from benchmarks.photo import encode_photo
from benchmarks.requests import SECRET, get, upload
from benchmarks.rows import fill
from benchmarks.workers import submit_image
from imageprocessor.logs import configure_logs
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.figures import store_snapshot
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.admin.access import LOOPBACK_COOKIE
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys, open_session, sign_session, sign_token
from tests.servers import create_database, find_free_port, run_postgres, run_server

JOBS = int(os.environ.get("HISTORY_JOBS", "1000000"))
FEW_JOBS = 1250  #: fifty of them failed, which is as many as a request for failed jobs returns
AT_MOST = 1.25
READS, UPLOADS, DELETIONS = 100, 50, 20  #: per turn
PHOTO_SIDE = 660  #: pixels; the JPEG is 100 KB

Contenders = dict[str, Callable[[], float]]  #: by name; each returns milliseconds


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two services that are compared."""

    settings: Settings
    service: Service
    port: int
    folder: Path


def measure(rounds: int) -> list[Figure | Skipped]:
    """Return three rows for each database: the worst route, the start, and an idle sweep."""
    configure_logs("console", "WARNING")
    rows: list[Figure | Skipped] = []
    with TemporaryDirectory() as folder:
        rows += measure_database("SQLite", Path(folder), lambda: None, rounds)
    with TemporaryDirectory() as folder, run_postgres(Path(folder)) as server:
        rows += measure_database(
            "PostgreSQL", Path(folder), lambda: create_database(server.port), rounds
        )
    return rows


def measure_database(
    database: str, folder: Path, make_url: Callable[[], str | None], rounds: int
) -> Iterator[Figure]:
    with ExitStack() as opened:
        full = opened.enter_context(run_side(folder / "full", make_url(), JOBS))
        few_side = opened.enter_context(run_side(folder / "few", make_url(), FEW_JOBS))
        history, few = f"{JOBS:,} finished jobs, {database}", f"{FEW_JOBS:,}"
        figures = []
        ours, theirs = make_contenders(full), make_contenders(few_side)
        for name in ours:
            turns = interleave({"full": ours[name], "few": theirs[name]}, rounds)
            row = compare(
                f"{name}, {history}", "ms", turns["full"], few, turns["few"], at_most=AT_MOST
            )
            sys.stderr.write(f"{row.work}: {row.ours:.2f} ms, {row.ratio:.2f}\n")
            figures.append(row)
    apart = [row for row in figures if row.work.startswith(("start", "idle sweep"))]
    routes = [row for row in figures if row not in apart]
    yield max(routes, key=lambda row: row.ratio)
    yield from apart


@contextmanager
def run_side(folder: Path, url: str | None, job_count: int) -> Iterator[Side]:
    """Run a service with *job_count* finished jobs and one that it has done itself."""
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "database_url": url,
            "jwt_secret_key": SECRET,
            "rate_limit_max_uploads": 1_000_000,
            "worker_concurrency": 0,
        }
    )
    with open_service(settings) as service:
        fill(service.database, job_count)
        store_snapshot(service.database)  # as a sweep does
        port = find_free_port()
        with run_server(serve(port), port, folder / "serve.log", env=environment(settings)):
            yield Side(settings, service, port, folder)


def serve(port: int) -> list[str]:
    return [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]


def environment(settings: Settings) -> dict[str, str]:
    values = {
        "ADMIN_UI": "true",
        "DATA_DIR": str(settings.data_dir),
        "JWT_SECRET_KEY": SECRET,
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
        "WORKER_CONCURRENCY": "0",
    }
    if settings.database_url:
        values["DATABASE_URL"] = settings.database_url.get_secret_value()
    return os.environ | values


def make_contenders(side: Side) -> Contenders:
    """Return what to measure on one side."""
    photo = encode_photo(PHOTO_SIDE, PHOTO_SIDE)
    job_id = submit_image(side.service, photo)
    run_job(side.service, job_id, "benchmark")
    job = read_job(side.service, job_id, OPERATOR)
    assert job.variant_keys
    image = f"/api/v1/images/{job.image_id}"
    paths = {
        "liveness": "/livez",
        "readiness": "/readyz",
        "health": "/api/v1/health",
        "statistics": "/api/v1/health/stats",
        "status check": f"/api/v1/images/jobs/{job_id}",
        "result": f"/api/v1/images/jobs/{job_id}/result",
        "image": image,
        "all sizes": f"{image}/all",
        "bytes": f"{image}/direct?size=thumbnail",
        "batch": f"/api/v1/images/batch?image_ids={job.image_id}",
        "file": f"/storage/{job.variant_keys['thumbnail']}",
    }
    contenders: Contenders = {
        name: partial(load, side, get(path), READS, 200) for name, path in paths.items()
    }
    token = sign_token(side.settings, "operator", admin=True)
    failed = add_header(get("/api/v1/health/failed"), f"Authorization: Bearer {token}")
    contenders["failed jobs"] = partial(load, side, failed, READS, 200)
    keys = load_keys(side.settings)
    session = sign_session(keys, side.settings, open_session(token, keys, side.settings))
    for page in ("", "/jobs", "/jobs?status=failed", "/images", "/webhooks", "/actions"):
        asked = add_header(get(f"/admin{page}"), f"Cookie: {LOOPBACK_COOKIE}={session}")
        contenders[f"admin{page}"] = partial(load, side, asked, READS, 200)
    contenders["upload"] = partial(load, side, upload("/api/v1/images/upload", photo), UPLOADS, 202)
    contenders["delete"] = partial(time_deletions, side, photo)
    contenders["idle sweep"] = partial(time_sweep, side)
    contenders["start"] = partial(time_start, side)
    return contenders


def add_header(request: bytes, line: str) -> bytes:
    """Return a request without a body with one more header."""
    return request.rstrip() + f"\r\n{line}\r\n\r\n".encode()


def load(side: Side, request: bytes, requests: int, status: int) -> float:
    """Return the median milliseconds of *requests*, one after another."""
    arguments = [str(side.port), "1", str(requests)]
    command = [sys.executable, "-m", "benchmarks.load", *arguments]
    ran = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True, timeout=300)
    report = json.loads(ran.stdout)
    assert report["statuses"] == {str(status): requests}, report["statuses"]
    return float(report["p50"])


def time_deletions(side: Side, photo: bytes) -> float:
    """Return the milliseconds that it takes to delete an image which waits for a worker."""
    jobs = [
        read_job(side.service, submit_image(side.service, photo), OPERATOR)
        for _ in range(DELETIONS)
    ]
    began = time.perf_counter()
    for job in jobs:
        delete_image(side.service, job.image_id, OPERATOR)
    return (time.perf_counter() - began) / DELETIONS * 1000


def time_sweep(side: Side) -> float:
    """Return the milliseconds of a sweep that finds nothing to do."""
    sweep(side.service)
    began = time.perf_counter()
    sweep(side.service)
    return (time.perf_counter() - began) * 1000


def time_start(side: Side) -> float:
    """Return the milliseconds until `serve` accepts connections."""
    port = find_free_port()
    began = time.perf_counter()
    with run_server(serve(port), port, side.folder / "start.log", env=environment(side.settings)):
        return (time.perf_counter() - began) * 1000
