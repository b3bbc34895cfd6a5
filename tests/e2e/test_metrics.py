"""Prometheus itself reads the metrics of a host whose processes are killed one after another."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from imageprocessor.queue.metrics.counts import read_totals
from tests.conftest import require_program
from tests.e2e.deployments import KEY, SERVE, connect, process
from tests.images import encode, photo
from tests.queue.workers.test_supervisor import list_children
from tests.servers import find_free_port, run_server
from tests.servers.processes import run_process, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

TOKEN = "a-token-for-tests-only"
WORKER = [sys.executable, "-m", "imageprocessor", "worker"]
#: It reads both addresses at which the host shows the same metrics.
CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: imageprocessor
    authorization: {{credentials: {token}}}
    static_configs: [{{targets: ["127.0.0.1:{api}", "127.0.0.1:{port}"]}}]
"""
COUNTED = '{__name__=~"imageprocessor_.*_(total|count|sum|bucket)"}'


@contextmanager
def run_prometheus(folder: Path, api: int, port: int) -> Iterator[httpx.Client]:
    """Run Prometheus, and yield a client of it."""
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(token=TOKEN, api=api, port=port))
    listens_on = find_free_port()
    command = [
        require_program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address=127.0.0.1:{listens_on}",
    ]
    with (
        run_server(command, listens_on, folder / "prometheus.log"),
        httpx.Client(base_url=f"http://127.0.0.1:{listens_on}/api/v1", trust_env=False) as client,
    ):
        yield client


def query(prometheus: httpx.Client, expression: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/query", params={"query": expression}).raise_for_status().json()
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_no_counter_falls_whatever_is_killed(tmp_path: Path) -> None:
    api, port = find_free_port(), find_free_port()
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_KEY": KEY,
        "WORKER_CONCURRENCY": "2",
        "IMAGE_SIZES": '{"thumbnail": 20}',
        "METRICS_TOKEN": TOKEN,
        "METRICS_PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    place: dict[str, Any] = {"env": {**os.environ, **settings}, "cwd": tmp_path}
    serve = [*SERVE, "--port", str(api), "--api-processes=2"]
    image = encode(photo(80, 60), "JPEG")
    lock = tmp_path / "data" / "metrics" / "port.lock"
    with (
        run_server(serve, api, tmp_path / "serve.log", **place) as server,
        run_prometheus(tmp_path, api, port) as prometheus,
        connect(f"http://127.0.0.1:{api}", "ann") as http,
    ):
        wait_for(lambda: len(list_children(server.process.pid)) == 4)
        process(http, image)
        holder = int(lock.read_text())

        def list_workers() -> list[int]:
            children = list_children(server.process.pid)
            return [pid for pid in children if not has_open(pid, lock)]

        # Only API processes, and all of them, wait for METRICS_PORT.
        wait_for(lambda: len(list_workers()) == 2)
        for victim in (holder, list_workers()[0]):
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(list_children(server.process.pid)) == 4)
            with suppress(httpx.TransportError):  # the killed process may have accepted this
                process(http, image)
        process(http, image)
        wait_for(lambda: lock.read_text().strip() != str(holder))
        wait_for(lambda: read_completed(prometheus).get(f"127.0.0.1:{port}", 0) >= 3)
        with run_process(WORKER, tmp_path / "worker.log", **place) as worker:
            wait_for(lambda: has_open(worker.pid, lock))
            for pid in (*list_children(server.process.pid), server.process.pid):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: lock.read_text().strip() == str(worker.pid))
            server.kill()
            completed, *_ = read_totals(lock.parent)[("jobs", "completed", ""), 1]
            wait_for(lambda: read_completed(prometheus) == {f"127.0.0.1:{port}": completed})
        assert list_falls(prometheus) == []
        names = {name for series in query(prometheus, COUNTED) for name in series["metric"]}
    allowed = "__name__ job instance method route status outcome code stage backend operation le"
    assert names <= set(allowed.split())
    slots = list(lock.parent.glob("*.counts"))
    assert len(slots) <= 6, "those of two API processes, two workers and two more"


def has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    with suppress(FileNotFoundError):
        return any(link.readlink() == path for link in links)
    return False


def list_falls(prometheus: httpx.Client) -> list[dict[str, str]]:
    """Return the labels of each counter of which Prometheus has seen a lower value later."""
    falls = []
    for series in query(prometheus, f"{COUNTED}[10m]"):
        values = [float(value) for _, value in series["values"]]
        if values != sorted(values):
            falls.append(series["metric"])
    return falls


def read_completed(prometheus: httpx.Client) -> dict[str, float]:
    """Return the number of completed jobs that each address shows now."""
    counted = query(prometheus, 'imageprocessor_jobs_total{outcome="completed"}')
    return {series["metric"]["instance"]: float(series["value"][1]) for series in counted}
