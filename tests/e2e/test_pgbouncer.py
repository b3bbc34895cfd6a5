"""Two hosts whose API processes and workers share four connections, through PgBouncer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from tests.e2e.deployments import SERVE, SETTINGS, connect, upload
from tests.images import encode, photo
from tests.queue.conftest import disconnect_clients
from tests.servers import Server, create_database, find_free_port
from tests.servers.pgbouncer import name_pooled, run_pgbouncer
from tests.servers.processes import run_process, wait_for

pytestmark = pytest.mark.xdist_group("pgbouncer")

SMALL = encode(photo(120, 90), "JPEG")
CLIENTS = 8
UPLOADS_PER_CLIENT = 3


@dataclass(frozen=True, slots=True)
class Hosts:
    """The addresses of two APIs, and what they have in common."""

    urls: list[str]
    database_url: str
    pgbouncer: Server

    def count_jobs(self) -> dict[str, int]:
        """Return the number of jobs in each status."""
        with psycopg.connect(self.database_url.replace("+psycopg", "")) as connection:
            rows = connection.execute("SELECT status, count(*) FROM processing_jobs GROUP BY 1")
            return dict(rows.fetchall())

    def list_completions(self) -> list[str]:
        """Return the job id of every ``completed`` event."""
        completed = "SELECT job_id FROM image_upload_events WHERE event_type = 'completed'"
        with psycopg.connect(self.database_url.replace("+psycopg", "")) as connection:
            return [job_id for (job_id,) in connection.execute(completed)]

    def listens(self) -> bool:
        """Return whether both APIs answer."""
        try:
            return all(httpx.get(f"{url}/livez").status_code == 200 for url in self.urls)
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, postgres: int) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("pooled")
    database_url = create_database(postgres)
    (folder / "staging").mkdir()
    with run_pgbouncer(folder, postgres) as pgbouncer, ExitStack() as running:
        urls = []
        for name in ("one", "two"):
            data = folder / name
            data.mkdir()
            (data / "staging").symlink_to(folder / "staging")
            settings = {
                "DATA_DIR": str(data),
                "STORAGE_PATH": str(folder / "storage"),
                "DATABASE_URL": name_pooled(database_url, pgbouncer.port),
                "DATABASE_DIRECT_URL": database_url,
                "IMAGE_SIZES": '{"thumbnail":40}',
            }
            port = find_free_port()
            command = [*SERVE, "--port", str(port)]
            environ = {**os.environ, **SETTINGS, **settings}
            log = folder / f"{name}.log"
            running.enter_context(run_process(command, log, cwd=folder, env=environ))
            urls.append(f"http://127.0.0.1:{port}")
        found = Hosts(urls, database_url, pgbouncer)
        wait_for(found.listens)
        yield found


def upload_and_check(hosts: Hosts, number: int) -> list[str]:
    """Upload images to one host and read their status from the other; repeat what gets a 503."""
    accepted: list[str] = []
    taking, reading = hosts.urls[number % 2], hosts.urls[1 - number % 2]
    with connect(taking, f"user-{number}") as taker, connect(reading, f"user-{number}") as reader:
        while len(accepted) < UPLOADS_PER_CLIENT:
            answer = upload(taker, SMALL, Idempotency_Key=str(len(accepted)))
            assert answer.status_code in {202, 503}, answer.text
            if answer.status_code == 202:
                accepted.append(answer.json()["job_id"])
                status = reader.get(answer.json()["status_url"])
                assert status.status_code in {200, 503}, status.text
    return accepted


def test_nothing_is_lost_when_pooler_or_server_connections_end(hosts: Hosts) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        uploading = [pool.submit(upload_and_check, hosts, number) for number in range(CLIENTS)]
        wait_for(hosts.count_jobs)
        hosts.pgbouncer.kill()
        hosts.pgbouncer.restart()
        disconnect_clients(hosts.database_url)
        accepted = [job_id for client in uploading for job_id in client.result()]
    assert len(accepted) == CLIENTS * UPLOADS_PER_CLIENT
    wait_for(lambda: hosts.count_jobs() == {"completed": len(accepted)})
    assert Counter(hosts.list_completions()) == Counter(accepted)
