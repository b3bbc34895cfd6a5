"""The service on several hosts that share only Redis, PostgreSQL and S3."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.e2e.deployments import (
    CELERY_WORKER,
    SERVE,
    SETTINGS,
    connect,
    connect_s3,
    count_workers,
    make_bucket,
    upload,
    wait_for_end,
)
from tests.images import encode, photo
from tests.servers.central import POSTGRES_PORT, REDIS_PORT, S3_PORT, run_engines
from tests.servers.hosts import Host, run_hosts
from tests.servers.processes import wait_for

pytestmark = pytest.mark.xdist_group("hosts")  # start the hosts once, not in every process

PORT, OTHER_PORT = 8000, 8001
SMALL = encode(photo(120, 90), "JPEG")
BIG = encode(photo(900, 700), "JPEG", quality=70)  # slow enough to be interrupted


@dataclass(frozen=True, slots=True)
class Worker:
    """A Celery worker on its own host."""

    host: Host
    process: subprocess.Popen[bytes]
    log: Path

    def freeze(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def wake_children(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for child in children.split():
            os.kill(int(child), signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two API hosts, three worker hosts, and the settings they share."""

    folder: Path
    settings: Mapping[str, str]
    apis: list[Host]
    clients: list[httpx.Client]
    workers: list[Worker]

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Return the rows of a database query."""
        url = self.settings["DATABASE_URL"].replace("+psycopg", "")
        with psycopg.connect(url, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def is_stored(self, image_id: str) -> bool:
        """Return whether any size of an image is stored yet."""
        bucket = connect_s3(self.settings["S3_ENDPOINT_URL"]).Bucket(self.settings["S3_BUCKET"])
        return any(image_id in found.key for found in bucket.objects.all())


def run_on(
    host: Host, command: Sequence[str], home: Path, settings: Mapping[str, str]
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run *command* on *host* in the folder *home*, which holds its data and the file ``log``."""
    home.mkdir()
    environ = {
        **os.environ,
        **SETTINGS,
        **settings,
        "NO_PROXY": "*",
        "DATA_DIR": str(home / "data"),
    }
    return host.run(command, home / "log", cwd=home, env=environ)


def share(engines: Host) -> dict[str, str]:
    """Return the settings of hosts that share the services running on *engines*."""
    return {
        "RATE_LIMIT_MAX_UPLOADS": "1000",
        "JOB_TIMEOUT_SECONDS": "3",  # a lease is 15 s longer
        "DATABASE_URL": f"postgresql+psycopg://postgres@{engines.address}:{POSTGRES_PORT}/postgres",
        "QUEUE_BACKEND": "celery",
        "REDIS_URL": f"redis://{engines.address}:{REDIS_PORT}/0",
        **make_bucket(f"http://{engines.address}:{S3_PORT}"),
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hosts")
    names = ("engines", "api-1", "api-2", "worker-1", "worker-2", "worker-3")
    with (
        run_hosts(*names) as (engines, *hosts),
        run_engines(engines, folder),
        ExitStack() as running,
    ):
        apis, settings, workers = hosts[:2], share(engines), []
        for host in hosts[2:]:
            process = running.enter_context(
                run_on(host, CELERY_WORKER, folder / host.name, settings)
            )
            workers.append(Worker(host, process, folder / host.name / "log"))
        for host in apis:
            running.enter_context(
                run_on(host, [*SERVE, *listen(host, PORT)], folder / host.name, settings)
            )
        clients = [
            running.enter_context(connect(f"http://{host.address}:{PORT}", "somebody"))
            for host in apis
        ]
        for host in apis:
            host.wait_for_port(PORT)
        wait_for(lambda: count_workers(clients[0]) == len(workers))
        yield Cluster(folder, settings, apis, clients, workers)


def listen(host: Host, port: int) -> list[str]:
    return ["--host", host.address, "--port", str(port)]


def test_upload_through_either_api_is_read_through_the_other(cluster: Cluster) -> None:
    for taker, reader in (cluster.clients, reversed(cluster.clients)):
        accepted = upload(taker, SMALL)
        assert wait_for_end(reader, accepted)["status"] == "completed"
        answer = reader.get(
            f"/api/v1/images/{accepted.json()['image_id']}/direct", follow_redirects=True
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")


def freeze_in_the_middle_of_a_job(cluster: Cluster, worker: Worker) -> str:
    """Freeze a worker before it stores any variant of its job, and return the job's id."""
    caught: list[str] = []

    def is_caught() -> bool:
        if not list_held(cluster, worker):
            _keep_busy(cluster)
            return False
        worker.freeze()
        caught.extend(
            job["job_id"]
            for job in list_held(cluster, worker)
            if not cluster.is_stored(job["image_id"])
        )
        if not caught:
            worker.wake()
        return bool(caught)

    wait_for(is_caught)
    return caught[0]


def list_held(cluster: Cluster, worker: Worker) -> list[dict[str, Any]]:
    """Return the jobs that the host of *worker* has claimed."""
    held = "SELECT * FROM processing_jobs WHERE status = 'processing' AND worker_id LIKE %s"
    return cluster.query(held, f"%@{worker.host.name}")


def _keep_busy(cluster: Cluster) -> None:
    if not cluster.query("SELECT FROM processing_jobs WHERE status = 'pending'"):
        for client in cluster.clients * 3:
            upload(client, BIG).raise_for_status()


def read_jobs(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.query("SELECT * FROM processing_jobs ORDER BY job_id")


def all_completed(cluster: Cluster) -> bool:
    return {job["status"] for job in read_jobs(cluster)} == {"completed"}


def list_completions(cluster: Cluster) -> list[str]:
    """Return the job id of every ``completed`` event."""
    completed = (
        "SELECT job_id FROM image_upload_events WHERE event_type = 'completed' ORDER BY job_id"
    )
    return [event["job_id"] for event in cluster.query(completed)]


def wait_until_working(cluster: Cluster, worker: Worker) -> None:
    """Wait until *worker* has started a job that was accepted after this call."""
    before = {job["job_id"] for job in read_jobs(cluster)}
    started = (
        "SELECT job_id FROM image_upload_events "
        "WHERE event_type = 'processing_started' AND metadata LIKE %s"
    )

    def has_worked() -> bool:
        _keep_busy(cluster)
        events = cluster.query(started, f"%@{worker.host.name}%")
        return bool({event["job_id"] for event in events} - before)

    wait_for(has_worked)


def test_jobs_of_disconnected_or_frozen_hosts_complete_once_elsewhere(cluster: Cluster) -> None:
    cut_off, frozen, _ = cluster.workers
    lost = {freeze_in_the_middle_of_a_job(cluster, worker) for worker in (frozen, cut_off)}
    cut_off.host.cut_off()
    cut_off.wake()
    meanwhile = [upload(client, SMALL) for client in cluster.clients]
    assert [wait_for_end(cluster.clients[0], answer)["status"] for answer in meanwhile] == [
        "completed"
    ] * 2
    wait_for(lambda: all_completed(cluster))
    jobs = read_jobs(cluster)
    assert lost <= {job["job_id"] for job in jobs if job["attempt_count"] > 1}

    cut_off.host.reconnect()
    logged = len(frozen.log.read_bytes())
    frozen.wake_children()  # first, or the parent kills them for exceeding the time limit
    ends = (b"attempt_ended", b"Timeout (")  # the child may notice first that it timed out
    wait_for(lambda: any(end in frozen.log.read_bytes()[logged:] for end in ends))
    frozen.wake()
    wait_for(lambda: count_workers(cluster.clients[0]) == len(cluster.workers))
    assert read_jobs(cluster) == jobs
    assert list_completions(cluster) == [job["job_id"] for job in jobs]
    for worker in (cut_off, frozen):
        wait_until_working(cluster, worker)


def test_second_host_with_sqlite_on_the_same_redis_is_refused(cluster: Cluster) -> None:
    redis_url = cluster.settings["REDIS_URL"].replace("/0", "/1")
    sqlite = {"QUEUE_BACKEND": "celery", "REDIS_URL": redis_url}
    first, second = cluster.apis
    with run_on(first, [*SERVE, *listen(first, OTHER_PORT)], cluster.folder / "first", sqlite):
        first.wait_for_port(OTHER_PORT)
        refused = {
            "serve": ([*SERVE, *listen(second, OTHER_PORT)], 2),
            "worker": (CELERY_WORKER, 1),
        }
        for name, (command, status) in refused.items():
            home = cluster.folder / f"second-{name}"
            with run_on(second, command, home, sqlite) as process:
                assert process.wait(90) == status
            assert "DATABASE_URL=" in (home / "log").read_text()
