from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from imageprocessor.queue.access import ANYONE, OPERATOR, Caller
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.server.representations import (
    represent_failed,
    represent_job,
    represent_result,
    represent_variant,
)

MOMENT = datetime(2024, 11, 8, 14, tzinfo=UTC)
SIZE = {"width": 150, "height": 200, "aspect_ratio": 0.75, "format": "webp", "size_bytes": 12453}


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": "job",
        "image_id": "image",
        "user_id": "ann",
        "status": JobStatus.COMPLETED,
        "bucket": "photos",
        "context": {"a": 1},
        "source_sha256": "",
        "created_at": MOMENT,
        "completed_at": MOMENT,
        "max_retries": 3,
        "variant_keys": {"thumbnail": "photos/processed/thumbnail/image_thumbnail.webp"},
        "generated": {
            "dominant_color": "#3A5F8C",
            "original_dimensions": {"width": 3024, "height": 4032},
            "variants": {"thumbnail": SIZE},
            "warnings": ["icc_invalid"],
        },
    }
    return Job(**values | changes)


def test_times_are_iso_in_utc() -> None:
    assert (
        represent_job(job(), ANYONE).model_dump(mode="json")["created_at"] == "2024-11-08T14:00:00Z"
    )


@pytest.mark.parametrize(
    ("status", "shown"),
    [(status, status.value) for status in JobStatus if status != "retrying"]
    + [(JobStatus.RETRYING, "pending")],
)
def test_job_that_will_be_retried_is_pending(status: JobStatus, shown: str) -> None:
    assert represent_job(job(status=status), ANYONE).status == shown


@pytest.mark.parametrize(
    ("caller", "sees"),
    [(Caller("ann"), True), (OPERATOR, True), (Caller("bob"), False), (ANYONE, False)],
)
def test_context_is_included_for_the_owner_and_operator(caller: Caller, sees: bool) -> None:
    for body in (represent_job(job(), caller), represent_result(job(), caller, "")):
        assert ("context" in body.model_dump(exclude_unset=True)) is sees


def test_urls_combine_the_base_and_the_key() -> None:
    url = "https://cdn.test/storage/photos/processed/thumbnail/image_thumbnail.webp"
    assert represent_result(job(), ANYONE, "https://cdn.test").urls == {"thumbnail": url}
    assert represent_variant(job(), "thumbnail", "https://cdn.test").url == url


def test_warnings_reach_the_client() -> None:
    assert represent_result(job(), ANYONE, "").metadata.warnings == ["icc_invalid"]


def test_fields_that_an_earlier_version_did_not_store_are_absent() -> None:
    result = represent_result(job(), ANYONE, "").model_dump(exclude_unset=True)
    assert list(result["metadata"]) == [
        "dominant_color",
        "original_dimensions",
        "variants",
        "warnings",
    ]


def test_failed_job_shows_when_it_failed() -> None:
    failed = represent_failed(job(status=JobStatus.FAILED, error_code="worker_lost", attempts=4))
    assert (failed.failed_at, failed.error_code, failed.attempts) == (MOMENT, "worker_lost", 4)
