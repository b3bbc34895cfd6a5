"""The clock is set an hour forward or back.

No job is lost, run twice or stranded, and no extra upload is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from imageprocessor.errors import RateLimitedError, WorkerLostError
from imageprocessor.queue.attempts import fail_attempt, run_job
from imageprocessor.queue.database import clock, tables
from imageprocessor.queue.jobs import job_store, outbox, webhook_deliveries
from imageprocessor.queue.jobs.job import LEASE_MARGIN_SECONDS, EventType, Job, JobStatus
from imageprocessor.queue.jobs.webhook_deliveries import Delivery
from imageprocessor.queue.maintenance.sweep import GLOBAL_STEPS, sweep
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender, Upload, submit
from imageprocessor.queue.webhooks import add_endpoint
from tests.queue.conftest import Submit, with_settings
from tests.uploads import list_all_jobs

SetClock = Callable[[timedelta], None]

HOUR, NOW = timedelta(hours=1), timedelta(0)
LEASE = timedelta(seconds=60 + LEASE_MARGIN_SECONDS)


def claim(service: Service, job: Job, worker_id: str = "worker") -> Job:
    with service.database.write() as connection:
        claimed = job_store.claim(connection, job.job_id, worker_id, clock.utc_now(), LEASE)
    assert claimed
    return claimed


def read(service: Service, job: Job) -> Job:
    with service.database.read() as connection:
        found = job_store.find_job(connection, job.job_id)
    assert found
    return found


def list_due(service: Service) -> list[str]:
    with service.database.read() as connection:
        return job_store.list_due(connection, clock.utc_now(), 10)


def count_events(service: Service, job: Job, event_type: EventType) -> int:
    with service.database.read() as connection:
        return [event["event_type"] for event in outbox.list_events(connection, job.job_id)].count(
            event_type
        )


def test_retry_is_due_after_the_next_sweep_when_the_clock_goes_back(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    fail_attempt(service, claim(service, job), WorkerLostError("It ended."))
    set_clock(-HOUR)
    assert list_due(service) == [], "without a sweep it would wait for an hour"
    assert sweep(service, GLOBAL_STEPS)["misdated_jobs"] == 1
    assert list_due(service) == [job.job_id]
    run_job(service, job.job_id, "worker")
    assert read(service, job).status is JobStatus.COMPLETED


def test_retry_that_waits_for_its_backoff_is_left_alone(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    fail_attempt(service, claim(service, job), WorkerLostError("It ended."))
    waits = read(service, job)
    set_clock(timedelta(seconds=-50))  # as another host's clock may differ
    assert sweep(service, GLOBAL_STEPS)["misdated_jobs"] == 0
    assert read(service, job) == waits


def test_lease_of_a_lost_worker_ends_on_time_when_the_clock_goes_back(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    claim(service, job)
    set_clock(-HOUR)
    assert sweep(service, GLOBAL_STEPS)["misdated_jobs"] == 1
    assert sweep(service, GLOBAL_STEPS)["misdated_jobs"] == 0
    set_clock(LEASE - HOUR - timedelta(seconds=5))
    assert sweep(service, GLOBAL_STEPS)["expired_jobs"] == 0, (
        "no lease is shortened: its worker may run"
    )
    set_clock(LEASE - HOUR + timedelta(seconds=5))
    assert sweep(service, GLOBAL_STEPS)["expired_jobs"] == 1
    assert read(service, job).status is JobStatus.RETRYING


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_running_job_completes_once_however_the_clock_steps(
    service: Service,
    submit_image: Submit,
    set_clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
    step: timedelta,
) -> None:
    """A step forward ends the lease at once.

    The sweep then makes the job due for a second worker while the first one is still running it.
    """
    job = submit_image()
    put = type(service.storage).put
    steps = iter([step])

    def put_while_the_clock_steps(storage: object, key: str, data: bytes) -> None:
        put(storage, key, data)  # type: ignore[arg-type]
        if by := next(steps, None):
            set_clock(by)
            sweep(service)
            set_clock(by + timedelta(minutes=2))  # past any backoff
            run_job(service, job.job_id, "second")

    monkeypatch.setattr(type(service.storage), "put", put_while_the_clock_steps)
    run_job(service, job.job_id, "first")
    done = read(service, job)
    assert done.status is JobStatus.COMPLETED
    assert count_events(service, job, EventType.COMPLETED) == 1
    assert all(map(service.storage.exists, (done.variant_keys or {}).values()))


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_waiting_job_is_due_and_its_upload_kept_however_the_clock_steps(
    service: Service, submit_image: Submit, set_clock: SetClock, step: timedelta
) -> None:
    job = submit_image()
    set_clock(step)
    sweep(service)
    assert list_due(service) == [job.job_id]
    run_job(service, job.job_id, "worker")
    assert read(service, job).status is JobStatus.COMPLETED


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_upload_not_yet_queued_survives_a_clock_step(
    service: Service, set_clock: SetClock, step: timedelta
) -> None:
    """Until its row is inserted, no job refers to the upload: only its age protects it."""
    service.staging.put("photos/just-arrived", b"its row is being written")
    (service.incoming / "arriving").write_bytes(b"half")
    set_clock(step)
    sweep(service)
    assert service.staging.exists("photos/just-arrived")
    assert (service.incoming / "arriving").exists()


def test_wake_up_lost_before_the_clock_went_back_is_repeated(
    service: Service, submit_image: Submit, set_clock: SetClock
) -> None:
    job = submit_image()
    set_clock(-HOUR)
    now = clock.utc_now()
    with service.database.read() as connection:
        due = job_store.list_due(connection, now, 10, created_before=now - timedelta(seconds=10))
    assert due == [job.job_id]


@pytest.mark.parametrize(
    ("attempts", "step", "misdated"),
    [
        pytest.param(0, -HOUR, 1, id="never sent"),
        pytest.param(1, -HOUR, 0, id="waits for the next try"),
        pytest.param(1, timedelta(days=-7), 1, id="waits longer than any pause"),
        pytest.param(0, timedelta(seconds=-50), 0, id="clocks of hosts differ"),
    ],
)
def test_webhook_is_due_after_the_next_sweep_when_the_clock_goes_back(
    service: Service,
    submit_image: Submit,
    set_clock: SetClock,
    attempts: int,
    step: timedelta,
    misdated: int,
) -> None:
    add_endpoint(service, "shop", "http://127.0.0.1:9/", allows_private=True)
    submit_image()
    with service.database.write() as connection:
        connection.execute(update(tables.webhook_deliveries).values(attempt_count=attempts))
    set_clock(step)
    assert not claim_webhooks(service)
    assert sweep(service, GLOBAL_STEPS)["misdated_deliveries"] == misdated
    assert sweep(service, GLOBAL_STEPS)["misdated_deliveries"] == 0
    assert len(claim_webhooks(service)) == misdated


def claim_webhooks(service: Service) -> list[Delivery]:
    with service.database.write() as connection:
        return webhook_deliveries.claim_due(connection, "shop", 8, clock.utc_now(), LEASE)


def test_clock_step_forward_and_back_resets_no_window(
    service: Service, receive: Callable[..., Upload], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = with_settings(service, rate_limit_max_uploads=1, rate_limit_window_minutes=60)
    half_past = datetime(2024, 11, 8, 14, 30, tzinfo=UTC)
    for step in (NOW, HOUR, NOW, -HOUR, NOW):
        monkeypatch.setattr(clock, "utc_now", lambda step=step: half_past + step)
        sweep(service)
        with suppress(RateLimitedError):
            submit(strict, receive(), Sender("ann"))
    with service.database.read() as connection:
        assert len(list_all_jobs(connection)) == 3, "one upload for each of the three windows"
