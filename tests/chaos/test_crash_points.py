"""The service ends, as if by a power cut, at each point of an upload, a job and a deletion.

Each test fails if its point is never reached, as when it patches a name that nobody looks up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.chaos.ledger import Ledger, check_house
from tests.chaos.points import DELETION_POINTS, UPLOAD_POINTS, WORK_POINTS
from tests.e2e.deployments import KEY, connect
from tests.images import encode, photo
from tests.servers import Server, find_free_port, run_server
from tests.servers.processes import wait_for

SMALL = encode(photo(120, 90), "JPEG")
LARGE = encode(photo(1400, 1000), "PNG")  # in several blocks


class House:
    """One data folder and port, in which services come and go."""

    def __init__(self, folder: Path, picture: bytes) -> None:
        self.folder, self.port, self.marker = folder, find_free_port(), folder / "crashed"
        self.settings = {
            "DATA_DIR": str(folder / "data"),
            "JWT_SECRET_KEY": KEY,
            "WORKER_CONCURRENCY": "1",
            "IMAGE_SIZES": '{"thumbnail": 20, "medium": 60}',
        }
        self.ledger = Ledger(f"http://127.0.0.1:{self.port}", picture)

    def serve(self, point: str | None = None) -> AbstractContextManager[Server]:
        """Run the service; with *point*, it ends when it first comes there."""
        program = "tests.chaos.crash" if point else "imageprocessor"
        command = [sys.executable, "-m", program, "serve", "--port", str(self.port)]
        trap = {"CRASH_POINT": point, "CRASH_MARKER": str(self.marker)} if point else {}
        environ = {**os.environ, **self.settings, **trap, "PYTHONPATH": os.pathsep.join(sys.path)}
        return run_server(
            command, self.port, self.folder / "serve.log", env=environ, cwd=self.folder
        )

    def delete(self, job_id: str) -> int:
        with connect(self.ledger.url, "me") as http:
            image_id = (
                http.get(f"/api/v1/images/jobs/{job_id}").raise_for_status().json()["image_id"]
            )
            return http.delete(f"/api/v1/images/{image_id}").status_code


@pytest.fixture(params=[LARGE], ids=["large"])
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(tmp_path, request.param)


@contextmanager
def crashed(house: House, server: Server) -> Iterator[None]:
    """Do what makes the service end, perhaps in the middle of an answer."""
    with suppress(httpx.TransportError):
        yield
    assert server.process.wait(60) == 137
    assert house.marker.exists()


@pytest.mark.parametrize(
    ("house", "point"),
    [(SMALL if "small" in point else LARGE, point) for point in UPLOAD_POINTS],
    ids=[*UPLOAD_POINTS],
    indirect=["house"],
)
def test_upload_that_is_cut_off_is_taken_when_it_comes_again(
    house: House, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        house.serve(point) as server,
        crashed(house, server),
        connect(house.ledger.url, "me") as http,
    ):
        house.ledger.try_once(http, "first")
    with house.serve():
        house.ledger.send("first")
        house.ledger.send("second")
        wait_for(house.ledger.has_ended)
        assert house.ledger.statuses() == {"completed"}
    check_house(house.settings, house.ledger, monkeypatch)


@pytest.mark.parametrize("point", WORK_POINTS)
def test_job_that_is_cut_off_ends_once(
    house: House, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house.serve(point) as server:
        for key in ("first", "second"):
            house.ledger.send(key)
        wait_for(house.ledger.has_ended)
        assert house.ledger.statuses() == {"completed"}
        assert house.marker.exists()
        assert server.process.poll() is None, "it is a worker that ended"
    check_house(house.settings, house.ledger, monkeypatch)


@pytest.mark.parametrize("point", DELETION_POINTS)
def test_deletion_that_is_cut_off_is_finished(
    house: House, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house.serve():
        deleted = house.ledger.send("first")
        house.ledger.send("second")
        wait_for(house.ledger.has_ended)
    with house.serve(point) as server, crashed(house, server):
        house.delete(deleted)
    del house.ledger.accepted["first"]
    with house.serve(), connect(house.ledger.url, "me") as http:
        assert http.get(f"/api/v1/images/jobs/{deleted}").status_code == 404
    check_house(house.settings, house.ledger, monkeypatch)
