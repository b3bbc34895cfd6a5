"""The service exits, as in a power cut, at each point of an upload, a job and a deletion.

Each test fails if its point is never reached, for instance because the patched name is unused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
LARGE = encode(photo(1400, 1000), "PNG")  # in several blocks


class Site:
    """A data folder and a port, where services are started one after another."""

    def __init__(self, folder: Path, image: bytes) -> None:
        self.folder, self.port, self.log = folder, find_free_port(), folder / "serve.log"
        self.trap, self.marker = folder / "trap", folder / "crashed"
        self.settings = {
            "DATA_DIR": str(folder / "data"),
            "JWT_SECRET_KEY": KEY,
            "WORKER_CONCURRENCY": "1",
            "IMAGE_SIZES": '{"thumbnail": 20, "medium": 60}',
        }
        self.ledger = Ledger(f"http://127.0.0.1:{self.port}", image)

    def serve(self, point: str | None = None) -> AbstractContextManager[Server]:
        """Run the service; if the trap is set, it exits when it first reaches *point*."""
        program = "tests.chaos.crash" if point else "imageprocessor"
        command = [sys.executable, "-m", program, "serve", "--port", str(self.port)]
        environ = {**os.environ, **self.settings, "PYTHONPATH": os.pathsep.join(sys.path)}
        if point:
            files = {"CRASH_TRAP": str(self.trap), "CRASH_MARKER": str(self.marker)}
            environ |= {"CRASH_POINT": point, **files}
        return run_server(command, self.port, self.log, env=environ, cwd=self.folder)

    def count_attempts(self) -> int:
        """Return how often a worker has left a job, and removed its upload."""
        return self.log.read_text().count("attempt_ended")

    def list_events(self, job_id: str) -> list[str]:
        settings = load_settings(self.settings)
        with open_service(settings) as service, service.database.read() as connection:
            events = outbox.list_events(connection, job_id)
        return [event["event_type"] for event in events]

    def delete(self, job_id: str) -> int:
        with connect(self.ledger.url, "me") as http:
            image_id = (
                http.get(f"/api/v1/images/jobs/{job_id}").raise_for_status().json()["image_id"]
            )
            return http.delete(f"/api/v1/images/{image_id}").status_code


@pytest.fixture(params=[LARGE], ids=["large"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path, request.param)


@contextmanager
def crashed(site: Site, server: Server) -> Iterator[None]:
    """Expect the body to make the service exit, perhaps in the middle of a response."""
    with suppress(httpx.TransportError):
        yield
    assert server.process.wait(60) == 137
    assert site.marker.exists()


@pytest.mark.parametrize(
    ("site", "point"),
    [(SMALL if "small" in point else LARGE, point) for point in UPLOAD_POINTS],
    ids=[*UPLOAD_POINTS],
    indirect=["site"],
)
def test_interrupted_upload_is_accepted_when_repeated(
    site: Site, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.trap.touch()
    with (
        site.serve(point) as server,
        crashed(site, server),
        connect(site.ledger.url, "me") as http,
    ):
        site.ledger.try_once(http, "first")
    with site.serve():
        site.ledger.send("first")
        site.ledger.send("second")
        wait_for(site.ledger.has_ended)
        assert site.ledger.statuses() == {"completed"}
    check_consistency(site.settings, site.ledger, monkeypatch)


@pytest.mark.parametrize("point", WORK_POINTS)
def test_interrupted_job_ends_once(site: Site, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site.trap.touch()
    with site.serve(point) as server:
        for key in ("first", "second"):
            site.ledger.send(key)
        wait_for(site.ledger.has_ended)
        assert site.ledger.statuses() == {"completed"}
        assert site.marker.exists()
        assert server.process.poll() is None, "only a worker should have exited"
    check_consistency(site.settings, site.ledger, monkeypatch)


@pytest.mark.parametrize("point", OVERLAP_POINTS)
def test_child_that_dies_on_the_next_job_is_not_charged_for_the_pending_one(
    site: Site, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.trap.touch()
    with site.serve(point) as server:
        first, second = (site.ledger.send(key) for key in ("first", "second"))
        wait_for(site.ledger.has_ended)
        assert site.ledger.statuses() == {"completed"}
        assert site.marker.exists()
        assert server.process.poll() is None, "only a worker should have exited"
    assert site.list_events(first)[1:] == [STARTED, RELEASED, STARTED, COMPLETED]
    assert site.list_events(second)[1:] == [STARTED, RETRYING, STARTED, COMPLETED]
    check_consistency(site.settings, site.ledger, monkeypatch)


@pytest.mark.parametrize("point", HANG_POINTS)
def test_job_whose_finish_hangs_is_charged_at_its_time_limit_and_not_the_next_one(
    site: Site, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings["JOB_TIMEOUT_SECONDS"] = "4"
    site.trap.touch()
    with site.serve(point):
        first, second = (site.ledger.send(key) for key in ("first", "second"))
        wait_for(site.ledger.has_ended)
        assert site.marker.exists()
    assert site.list_events(first)[1:3] == [STARTED, RETRYING]
    assert site.list_events(second)[1:3] == [STARTED, RELEASED]
    check_consistency(site.settings, site.ledger, monkeypatch)


@pytest.mark.parametrize("point", DELETION_POINTS)
def test_interrupted_deletion_is_finished(
    site: Site, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.serve(point) as server:
        deleted = site.ledger.send("first")
        site.ledger.send("second")
        wait_for(lambda: site.count_attempts() == 2)
        site.trap.touch()
        with crashed(site, server):
            site.delete(deleted)
    del site.ledger.accepted["first"]
    with site.serve(), connect(site.ledger.url, "me") as http:
        assert http.get(f"/api/v1/images/jobs/{deleted}").status_code == 404
    check_consistency(site.settings, site.ledger, monkeypatch)
