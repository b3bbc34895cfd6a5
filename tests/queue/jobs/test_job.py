from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imageprocessor.errors import (
    ImageProcessorError,
    InvalidImageError,
    StorageFullError,
    WorkerLostError,
)
from imageprocessor.queue.jobs.job import Job, JobStatus, after_failure, backoff

NOW = datetime(2024, 11, 8, 14, tzinfo=UTC)


def job(attempts: int, max_retries: int = 3) -> Job:
    return Job(
        job_id="j",
        image_id="i",
        user_id="ann",
        status=JobStatus.PROCESSING,
        bucket="photos",
        context={"a": [1]},
        source_sha256="",
        created_at=NOW,
        max_retries=max_retries,
        attempts=attempts,
    )


def test_job_survives_a_round_trip_through_its_row() -> None:
    full = {
        "variant_keys": {"medium": "k"},
        "generated": {"x": 1},
        "completed_at": NOW,
        "staging_key": "s",
    }
    for original in (job(1), Job(**{**{f: getattr(job(1), f) for f in Job.__slots__}, **full})):
        assert Job.from_row(original.to_row()) == original


@pytest.mark.parametrize("error", [StorageFullError("full"), WorkerLostError("lost")])
def test_transient_error_is_retried_max_retries_times(error: ImageProcessorError) -> None:
    outcomes = [after_failure(job(attempt), error, NOW) for attempt in (1, 2, 3, 4)]
    assert [outcome.status for outcome in outcomes] == [JobStatus.RETRYING] * 3 + [JobStatus.FAILED]
    assert all(outcome.keeps_source for outcome in outcomes)


def test_invalid_input_fails_at_once_without_its_source() -> None:
    outcome = after_failure(job(1), InvalidImageError("broken"), NOW)
    assert (outcome.status, outcome.next_attempt_at, outcome.keeps_source) == (
        JobStatus.FAILED,
        None,
        False,
    )


def test_storage_error_waits_longer_than_a_lost_worker() -> None:
    waits = [
        after_failure(job(1), error, NOW).next_attempt_at
        for error in (WorkerLostError("x"), StorageFullError("x"))
    ]
    assert waits[0]
    assert waits[1]
    assert waits[0] <= NOW + timedelta(seconds=1)
    assert waits[1] >= NOW + timedelta(seconds=5)


@pytest.mark.parametrize(("attempts", "longest"), [(1, 1), (2, 2), (3, 4), (7, 60), (20, 60)])
def test_backoff_doubles_up_to_a_minute_with_jitter(attempts: int, longest: int) -> None:
    waits = {backoff(attempts) for _ in range(50)}
    assert len(waits) > 10
    assert all(
        timedelta(seconds=longest / 2) <= wait <= timedelta(seconds=longest) for wait in waits
    )
