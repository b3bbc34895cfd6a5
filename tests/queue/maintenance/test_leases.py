"""Two hosts on one database: each has its own DATA_DIR, and one runs the global steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from imageprocessor.queue.database import clock
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.maintenance.leases import Lease
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.service import Service, open_service
from tests.queue.conftest import Submit

SetClock = Callable[[timedelta], None]


@pytest.fixture
def other(service: Service, tmp_path: Path) -> Iterator[Service]:
    settings = service.settings
    changes = {
        "data_dir": tmp_path / "other",
        "database_path": settings.database_path,
        "storage_path": settings.storage_path,
    }
    with open_service(settings.model_copy(update=changes)) as opened:
        yield opened


def claim(service: Service, job: Job, worker_id: str, lease: timedelta) -> None:
    with service.database.write() as connection:
        assert job_store.claim(connection, job.job_id, worker_id, clock.utc_now(), lease)


def read_status(service: Service, job: Job) -> JobStatus | None:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    return found.status if found else None


def test_one_host_runs_global_steps_and_each_its_own(
    service: Service, other: Service, submit_image: Submit
) -> None:
    first, second = Sweeper(service), Sweeper(other)
    first._sweep_jobs()
    expired, lost = submit_image(), submit_image()
    claim(service, expired, "elsewhere", timedelta(seconds=-1))
    claim(service, lost, "dead:1", timedelta(hours=1))
    workers_directory(other.settings).mkdir()
    (workers_directory(other.settings) / "dead.lock").write_text("2")

    second._sweep_jobs()
    assert read_status(service, lost) is JobStatus.RETRYING, "its host waits for no lease"
    assert read_status(service, expired) is JobStatus.PROCESSING
    first._sweep_jobs()
    assert read_status(service, expired) is JobStatus.RETRYING


def test_next_host_takes_over_at_once_after_a_stop(service: Service, other: Service) -> None:
    first, second = Lease(service.database, "sweep"), Lease(other.database, "sweep")
    assert [first.hold(), second.hold(), first.hold()] == [True, False, True]
    first.release()
    assert [second.hold(), first.hold()] == [True, False]
    first.release()
    assert second.hold()


def test_next_host_takes_over_after_a_minute_if_the_holder_was_killed(
    service: Service, other: Service, set_clock: SetClock
) -> None:
    """A killed process releases nothing."""
    killed, second = Lease(service.database, "sweep"), Lease(other.database, "sweep")
    assert killed.hold()
    set_clock(timedelta(seconds=59))
    assert not second.hold()
    set_clock(timedelta(seconds=61))
    assert second.hold()
    assert not killed.hold(), "it was only frozen"


def test_holder_keeps_the_lease_as_long_as_it_sweeps(
    service: Service, other: Service, set_clock: SetClock
) -> None:
    first, second = Lease(service.database, "sweep"), Lease(other.database, "sweep")
    for seconds in range(0, 300, 25):
        set_clock(timedelta(seconds=seconds))
        assert (first.hold(), second.hold()) == (True, False)


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1)])
def test_clock_that_is_set_stops_no_sweep(
    service: Service, other: Service, set_clock: SetClock, step: timedelta
) -> None:
    """The holder was killed, and then both clocks are set."""
    killed, second = Lease(service.database, "sweep"), Lease(other.database, "sweep")
    assert killed.hold()
    set_clock(step)
    assert second.hold()


def test_hosts_whose_clocks_differ_by_a_minute_take_no_turns(
    service: Service, other: Service, set_clock: SetClock
) -> None:
    ahead, behind = Lease(service.database, "sweep"), Lease(other.database, "sweep")
    holders = []
    for seconds in range(0, 120, 5):
        set_clock(timedelta(seconds=seconds + 55))
        holders += ["ahead"] * ahead.hold()
        set_clock(timedelta(seconds=seconds))
        holders += ["behind"] * behind.hold()
    assert set(holders) == {"ahead"}


def test_lost_lease_leaves_the_rest_to_its_holder(
    service: Service, other: Service, set_clock: SetClock
) -> None:
    lease = Lease(service.database, "sweep")
    assert lease.hold()

    def find(_: Service) -> Iterator[str]:
        yield "first"
        set_clock(timedelta(seconds=61))  # the first repair took that long
        assert Lease(other.database, "sweep").hold()
        yield "second"

    repaired: list[str] = []
    step = ("items", find, lambda _, item: repaired.append(item))
    assert sweep(service, [step], lease=lease) == {"items": 1}
    assert repaired == ["first"]


def test_idle_sweep_writes_nothing_until_half_of_the_lease_is_used(
    service: Service, set_clock: SetClock
) -> None:
    sweeper = Sweeper(service)
    sweeper._sweep_jobs()
    written: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if re.match(r"\s*(INSERT|UPDATE|DELETE)", statement):
            written.append(statement)

    event.listen(service.database.connections.engine, "before_cursor_execute", note)
    set_clock(timedelta(seconds=25))
    sweeper._sweep_jobs()
    assert written == []
    set_clock(timedelta(seconds=31))
    sweeper._sweep_jobs()
    assert [statement for statement in written if "maintenance" in statement] == written
    assert len(written) == 1
