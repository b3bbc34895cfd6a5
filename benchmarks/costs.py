"""Measure what one image costs, for docs/capacity.py: `python -m benchmarks.costs`.

The costs are CPU time, so other programs may run meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from redis import Redis

from benchmarks.photo import encode_photo
from benchmarks.workers import count_open, run_workers, submit_image
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.servers import find_free_port, run_redis
from tests.servers.processes import run_process, wait_for

JOBS = 20
REQUESTS = 200
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SERVE = [sys.executable, "-m", "imageprocessor", "serve", "--port"]


def main() -> None:
    """Print the costs under the names that docs/capacity.py uses."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(data_dir=folder, rate_limit_max_uploads=1_000_000)
        with open_service(settings) as service:
            job_seconds = cost_of_jobs(service, folder)
        upload, poll = cost_of_requests(settings, folder)
    print(f"job_cpu_seconds={job_seconds:.3f}")
    print(f"upload_cpu_seconds={upload:.5f} poll_cpu_seconds={poll:.5f}")
    print(f"redis_commands={count_redis_commands():.1f}")


def cost_of_jobs(service: Service, folder: Path) -> float:
    """Return the CPU seconds that a worker and its supervisor use for a 12 MP job."""
    with run_workers(folder, 1) as process:
        submit_image(service, encode_photo())
        wait_for(lambda: not count_open(service))
        before = cpu_seconds(process.pid)
        for _ in range(JOBS):
            submit_image(service, encode_photo())
        wait_for(lambda: not count_open(service))
        return (cpu_seconds(process.pid) - before) / JOBS


def cost_of_requests(settings: Settings, folder: Path) -> tuple[float, float]:
    """Return the CPU seconds that the API uses for an upload of 12 MP and for a status check."""
    port = find_free_port()
    environ = {
        **os.environ,
        "DATA_DIR": str(folder),
        "WORKER_CONCURRENCY": "0",
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
    }
    headers = {"Authorization": f"Bearer {sign_token(settings, 'benchmark')}"}
    url = f"http://127.0.0.1:{port}/api/v1/images"
    command, log = [*SERVE, str(port)], folder / "serve.log"
    with (
        run_process(command, log, stop=signal.SIGTERM, env=environ, cwd=folder) as process,
        httpx.Client(base_url=url, headers=headers) as http,
    ):
        wait_for(lambda: answers(http))

        def upload() -> httpx.Response:
            form = {"files": {"file": encode_photo()}, "data": {"bucket": "photos"}}
            return http.post("/upload", **form).raise_for_status()  # type: ignore[arg-type]

        job_id = upload().json()["job_id"]

        def check_status() -> httpx.Response:
            return http.get(f"/jobs/{job_id}").raise_for_status()

        return cost_of(upload, process.pid), cost_of(check_status, process.pid)


def count_redis_commands() -> float:
    """Return the Redis commands per job: message, acknowledgement, events, idle polling."""
    with TemporaryDirectory() as name, run_redis(Path(name)) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        environ = {**os.environ, "DATA_DIR": name, "QUEUE_BACKEND": "celery", "REDIS_URL": url}
        settings = Settings.model_validate(
            {
                "data_dir": name,
                "queue_backend": "celery",
                "redis_url": url,
                "rate_limit_max_uploads": 1_000_000,
            }
        )
        command = [sys.executable, "-m", "imageprocessor", "worker"]
        with (
            open_service(settings) as service,
            run_process(command, Path(name, "worker.log"), env=environ, cwd=name),
        ):
            submit_image(service, encode_photo(400, 300))
            wait_for(lambda: not count_open(service))
            before = count_commands(url)
            for _ in range(REQUESTS):
                submit_image(service, encode_photo(400, 300))
            wait_for(lambda: not count_open(service))
            return (count_commands(url) - before) / REQUESTS


def count_commands(url: str) -> int:
    with Redis.from_url(url) as redis:
        return int(redis.info("stats")["total_commands_processed"])


def cost_of(request: Callable[[], object], pid: int) -> float:
    """Return the mean CPU seconds that the process uses for one *request*."""
    before = cpu_seconds(pid)
    for _ in range(REQUESTS):
        request()
    return (cpu_seconds(pid) - before) / REQUESTS


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code > 0
    except httpx.TransportError:
        return False


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    seconds = (user + system) / TICKS_A_SECOND
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = (task / "children").read_text().split()
        seconds += sum(cpu_seconds(int(child)) for child in children)
    return seconds


if __name__ == "__main__":
    main()
