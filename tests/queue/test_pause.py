from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from imageprocessor.errors import NoWorkerError, StorageUnavailableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.attempts import (
    claim_next,
    fail_waiting,
    finish_attempt,
    process_job,
    run_job,
)
from imageprocessor.queue.database import clock
from imageprocessor.queue.health import check_health
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.maintenance.sweep import find_overlooked
from imageprocessor.queue.pause import Pause, pause, read_pause, resume
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.statistics import collect_statistics
from imageprocessor.storage.side_by_side import open_store_pool
from tests.queue.conftest import Submit

SetClock = Callable[[timedelta], None]


@dataclass(slots=True)
class CountingDispatcher:
    """A dispatcher that needs a wake-up for each job, as Celery's does."""

    room: int
    woken: list[str] = field(default_factory=list)

    def dispatch(self, job_id: str) -> None:
        self.woken.append(job_id)

    def count_workers(self) -> int:
        return 0

    def count_redispatchable(self) -> int:
        return self.room

    def check(self) -> None:
        pass


def test_paused_workers_claim_nothing_and_end_what_they_run(
    service: Service, submit_image: Submit
) -> None:
    running = submit_image()
    claimed = claim_next(service, "first")
    assert claimed
    assert pause(service, "root")
    waiting = submit_image()
    with open_store_pool() as pool:
        finish_attempt(service, process_job(service, claimed, threads=1), pool)
    assert read_job(service, running.job_id, OPERATOR).status is JobStatus.COMPLETED

    assert claim_next(service, "second") is None
    run_job(service, waiting.job_id, "second")
    with service.database.read() as connection:
        assert job_store.list_due(connection, clock.utc_now(), 9) == []
    assert read_job(service, waiting.job_id, OPERATOR) == waiting

    assert resume(service, None)
    claimed = claim_next(service, "second")
    assert claimed
    assert claimed.job_id == waiting.job_id


def test_pause_outlives_processes_and_is_begun_and_ended_once(service: Service) -> None:
    assert read_pause(service) is None
    assert not resume(service, "ann")
    assert pause(service, "root")
    assert not pause(service, "ann")
    with open_service(service.settings) as restarted:
        paused = read_pause(restarted)
    assert paused
    assert (paused.by, abs(clock.utc_now() - paused.since) < timedelta(minutes=1)) == ("root", True)
    assert resume(service, None)
    assert not resume(service, None)
    assert read_pause(service) is None

    resumed, begun = list_actions(service, 9)
    assert (begun["event_type"], begun["metadata"]) == ("paused", {"by": "root"})
    assert (resumed["event_type"], resumed["metadata"]["by"]) == ("resumed", None)
    assert 0 <= resumed["metadata"]["paused_seconds"] < 60


def test_pause_is_no_fault_but_shown(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    submit_image()
    assert collect_statistics(service)["paused_since"] is None
    pause(service, None)
    paused = read_pause(service)
    assert paused == Pause(paused.since if paused else clock.utc_now(), None)
    assert collect_statistics(service)["paused_since"] == clock.to_text(paused.since)
    set_clock(timedelta(minutes=5))
    assert check_health(service)["queue"] is None
    resume(service, None)
    assert isinstance(check_health(service)["queue"], NoWorkerError)


def test_sweep_wakes_nobody_during_a_pause(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    dispatcher = CountingDispatcher(room=5)
    celery = replace(service, dispatcher=dispatcher)
    set_clock(timedelta(minutes=5))
    assert find_overlooked(celery) == [job.job_id]
    pause(celery, None)
    assert find_overlooked(celery) == []
    resume(celery, None)
    assert dispatcher.woken == [job.job_id]


def test_waiting_job_can_be_failed_during_a_pause(service: Service, submit_image: Submit) -> None:
    """As `fsck --repair` does with a job whose upload is missing."""
    job = submit_image()
    pause(service, None)
    assert fail_waiting(service, job.job_id, "fsck", StorageUnavailableError("It is gone."))
    assert read_job(service, job.job_id, OPERATOR).status is JobStatus.RETRYING
