"""The service exits, as in a power cut, at each point of an upload, a job and a deletion.

Each test fails if its point is never reached, for instance because the patched name is unused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from imageprocessor.environment import load_settings
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.jobs.job import EventType
from imageprocessor.queue.service import open_service
from tests.chaos.ledger import Ledger, check_consistency
from tests.chaos.points import (
    DELETION_POINTS,
    HANG_POINTS,
    OVERLAP_POINTS,
    UPLOAD_POINTS,
    WORK_POINTS,
)
from tests.e2e.deployments import KEY, connect
from tests.images import encode, photo
from tests.servers import Server, find_free_port, run_server
from tests.servers.processes import wait_for

SMALL = encode(photo(120, 90), "JPEG")
STARTED, RELEASED, RETRYING = EventType.PROCESSING_STARTED, EventType.RELEASED, EventType.RETRYING
COMPLETED = EventType.COMPLETED
LARGE = encode(photo(1000, 800), "PNG")  # in several blocks

pytestmark = pytest.mark.xdist_group("crash points")  # they share a service


class Site:
    """A data folder and a service on it, which exits at the point for which a trap is set."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.port, self.log = folder, find_free_port(), folder / "serve.log"
        self.trap, self.marker = folder / "trap", folder / "crashed"
        self.settings = {
            "DATA_DIR": str(folder / "data"),
            "JWT_SECRET_KEY": KEY,
            "WORKER_CONCURRENCY": "1",
            "IMAGE_SIZES": '{"thumbnail": 20, "medium": 60}',
            "RATE_LIMIT_MAX_UPLOADS": "1000",
            **settings,
        }
        self.ledger = Ledger(f"http://127.0.0.1:{self.port}", LARGE)

    def serve(self) -> AbstractContextManager[Server]:
        """Run the service."""
        command = [sys.executable, "-m", "tests.chaos.crash", "serve", "--port", str(self.port)]
        environ = {**os.environ, **self.settings, "PYTHONPATH": os.pathsep.join(sys.path)}
        environ |= {"CRASH_TRAP": str(self.trap), "CRASH_MARKER": str(self.marker)}
        return run_server(command, self.port, self.log, env=environ, cwd=self.folder)

    def set_trap(self, point: str) -> None:
        """Let the service exit when it next reaches *point*."""
        self.marker.unlink(missing_ok=True)
        draft = self.folder / "draft"
        draft.write_text(point)
        draft.rename(self.trap)

    def has_left(self, job_id: str) -> bool:
        """Return whether a worker has ended a job, and removed its upload."""
        lines = self.log.read_text().splitlines()
        return any("attempt_ended" in line and job_id in line for line in lines)

    def list_events(self, job_id: str) -> list[str]:
        settings = load_settings(self.settings)
        with (
            open_service(settings, creates=False) as service,
            service.database.read() as connection,
        ):
            events = outbox.list_events(connection, job_id)
        return [event["event_type"] for event in events]

    def delete(self, job_id: str) -> int:
        with connect(self.ledger.url, "me") as http:
            image_id = (
                http.get(f"/api/v1/images/jobs/{job_id}").raise_for_status().json()["image_id"]
            )
            return http.delete(f"/api/v1/images/{image_id}").status_code


@contextmanager
def running(site: Site) -> Iterator[Server]:
    """Run the service; when it has been stopped, check that nothing was lost or left behind."""
    with site.serve() as server:
        yield server
    with pytest.MonkeyPatch.context() as patch:
        check_consistency(site.settings, site.ledger, patch)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, add_sqlite: Callable[[Path], None]
) -> Iterator[tuple[Site, Server]]:
    site = Site(tmp_path_factory.mktemp("site"))
    add_sqlite(site.folder / "data")
    with running(site) as server:
        yield site, server


@pytest.fixture
def server(shared: tuple[Site, Server]) -> Server:
    """The service that all tests share: it takes 4 s of CPU time to start."""
    site, server = shared
    if server.process.poll() is not None:  # the test before failed
        site.trap.unlink(missing_ok=True)
        server.restart()
    return server


@pytest.fixture
def site(shared: tuple[Site, Server]) -> Site:
    return shared[0]


@contextmanager
def crashed(site: Site, server: Server) -> Iterator[None]:
    """Expect the body to make the service exit, perhaps in the middle of a response.

    Then start it again.
    """
    with suppress(httpx.TransportError):
        yield
    assert server.process.wait(60) == 137
    assert site.marker.exists()
    server.restart()


@pytest.mark.parametrize("point", UPLOAD_POINTS)
def test_interrupted_upload_is_accepted_when_repeated(
    site: Site, server: Server, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.ledger, "photo", SMALL if "small" in point else LARGE)
    site.set_trap(point)
    with crashed(site, server), connect(site.ledger.url, "me") as http:
        site.ledger.try_once(http, point)
    for key in (point, f"after {point}"):
        site.ledger.send(key)
    wait_for(site.ledger.has_ended)
    assert site.ledger.statuses() == {"completed"}


@pytest.mark.parametrize("point", WORK_POINTS)
def test_interrupted_job_ends_once(site: Site, server: Server, point: str) -> None:
    site.set_trap(point)
    for key in (point, f"after {point}"):
        site.ledger.send(key)
    wait_for(site.ledger.has_ended)
    assert site.ledger.statuses() == {"completed"}
    assert site.marker.exists()
    assert server.process.poll() is None, "only a worker should have exited"


@pytest.mark.parametrize("point", OVERLAP_POINTS)
def test_child_that_dies_on_the_next_job_is_not_charged_for_the_pending_one(
    site: Site, server: Server, point: str
) -> None:
    site.set_trap(point)
    first, second = (site.ledger.send(key) for key in (point, f"after {point}"))
    wait_for(site.ledger.has_ended)
    assert site.ledger.statuses() == {"completed"}
    assert site.marker.exists()
    assert server.process.poll() is None, "only a worker should have exited"
    assert site.list_events(first)[1:] == [STARTED, RELEASED, STARTED, COMPLETED]
    assert site.list_events(second)[1:] == [STARTED, RETRYING, STARTED, COMPLETED]


@pytest.mark.parametrize("point", DELETION_POINTS)
def test_interrupted_deletion_is_finished(site: Site, server: Server, point: str) -> None:
    deleted = site.ledger.send(point)
    wait_for(lambda: site.has_left(deleted))
    site.set_trap(point)
    with crashed(site, server):
        site.delete(deleted)
    del site.ledger.accepted[point]
    with connect(site.ledger.url, "me") as http:
        assert http.get(f"/api/v1/images/jobs/{deleted}").status_code == 404


@pytest.mark.parametrize("point", HANG_POINTS)
def test_job_whose_finish_hangs_is_charged_at_its_time_limit_and_not_the_next_one(
    tmp_path: Path, add_sqlite: Callable[[Path], None], point: str
) -> None:
    site = Site(tmp_path, JOB_TIMEOUT_SECONDS="4")
    add_sqlite(tmp_path / "data")
    site.set_trap(point)
    with running(site):
        first, second = (site.ledger.send(key) for key in ("first", "second"))
        wait_for(site.ledger.has_ended)
        assert site.marker.exists()
        assert site.list_events(first)[1:3] == [STARTED, RETRYING]
        assert site.list_events(second)[1:3] == [STARTED, RELEASED]
