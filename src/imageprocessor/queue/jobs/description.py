"""What is said of a job to the outside: the fields of its result, and the bodies of its events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.core.variants import name_alternate
from imageprocessor.errors import describe_publicly
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs.batch_store import Batch
from imageprocessor.queue.jobs.job import EventType, Job, JobStatus

MAX_BODY_BYTES = 20_000  #: of an event; receivers may refuse more (Standard Webhooks 1.0)

#: The events that are reported to the outside. Those of batches: see `describe_batch_event`.
PUBLIC_TYPES: dict[str, str] = {
    EventType.UPLOAD_INITIATED: "image.accepted",
    EventType.COMPLETED: "image.completed",
    EventType.FAILED: "image.failed",
    EventType.DELETED: "image.deleted",
    EventType.BATCH_COMPLETED: "batch.completed",
}


#: How a file of a batch may end.
BATCH_ENDINGS = ("completed", "failed", "deleted", "refused")


class Occurrence(NamedTuple):
    """An event, apart from what it happened to."""

    event_id: str
    event_type: EventType
    created_at: datetime


def describe_result(job: Job, base_url: str) -> dict[str, Any]:
    """Return the result of a completed job, without its context."""
    urls = {size: make_url(key, base_url) for size, key in job.sizes.items()}
    variants = {size: describe_variant(job, size, base_url) for size in urls}
    return {
        "image_id": job.image_id,
        "status": job.status,
        "urls": urls,
        "srcset": describe_srcset(job, base_url),
        "metadata": {**(job.generated or {}), "variants": variants},
        "completed_at": job.completed_at,
    }


def describe_variant(job: Job, size: str, base_url: str) -> dict[str, Any]:
    """Return what is known about a variant, its alternates with their URLs."""
    variant = job.describe_file(size)
    if "alternates" not in variant:
        return variant
    keys = job.variant_keys or {}
    alternates = []
    for alternate in variant["alternates"]:
        key = keys[name_alternate(size, alternate["format"])]
        alternates.append({"url": make_url(key, base_url), **alternate})
    return {**variant, "alternates": alternates}


def describe_srcset(job: Job, base_url: str) -> dict[str, str]:
    """Return for each MIME type, smaller files first, the value of an HTML ``srcset``.

    It has one URL for each width.
    """
    responsive = (job.generated or {}).get("responsive", ())
    keys = job.variant_keys or {}
    urls: dict[str, dict[int, str]] = {output: {} for output in OUTPUT_FORMATS}
    for name, key in keys.items():
        size, _, _ = name.partition(".")
        if size in responsive:
            file = job.describe_file(name)
            urls[file["format"]].setdefault(file["width"], make_url(key, base_url))
    srcset = {}
    for output, by_width in urls.items():
        if by_width:
            candidates = [f"{by_width[width]} {width}w" for width in sorted(by_width)]
            srcset[OUTPUT_FORMATS[output].mime_type] = ", ".join(candidates)
    return srcset


def make_url(key: str, base_url: str) -> str:
    """Return the URL at which the service serves the object *key*."""
    return f"{base_url}/storage/{key}"


def describe_event(occurrence: Occurrence, job: Job, base_url: str) -> dict[str, Any]:
    """Return what an event of *job* says, *job* being as the event left it.

    `type` and `timestamp` as in Standard Webhooks 1.0, beside the fields of the result.
    """
    if occurrence.event_type is EventType.DELETED:
        return describe_deleted(occurrence, job.job_id, job.image_id, job.bucket)
    said = _identify(occurrence, job.job_id, job.image_id, job.bucket)
    if job.status is JobStatus.COMPLETED:
        said |= describe_result(job, base_url)
    elif job.status is JobStatus.FAILED:
        said |= {
            "status": job.status,
            "error": describe_publicly(job.error_code, job.error or ""),
            "error_code": job.error_code,
            "completed_at": job.completed_at,
        }
    else:
        said["status"] = JobStatus.PENDING
    return {**said, "context": job.context}


def describe_deleted(
    occurrence: Occurrence, job_id: str, image_id: str, bucket: str | None
) -> dict[str, Any]:
    """Return what an event says of an image that is deleted, by this event or since."""
    return {**_identify(occurrence, job_id, image_id, bucket), "status": "deleted"}


def describe_outcomes(batch: Batch, jobs: Iterable[Job]) -> dict[str, Any]:
    """Return how the files of a completed batch ended; *jobs* are those of its jobs with a row."""
    found = {job.job_id: job for job in jobs if job.deleted_at is None}
    items: list[dict[str, Any]] = []
    for index, outcome in enumerate(batch.outcomes):
        item: dict[str, Any] = {"index": index}
        error_code = outcome.error_code
        if outcome.job_id is None:
            item["status"] = "refused"
        else:
            job = found.get(outcome.job_id)
            item |= {"job_id": outcome.job_id, "image_id": outcome.image_id}
            item["status"] = job.status if job else "deleted"
            error_code = job.error_code if job else None
        if error_code:
            item["error_code"] = error_code
        items.append(item)
    found_statuses = Counter(item["status"] for item in items)
    counts = {ending: found_statuses[ending] for ending in BATCH_ENDINGS}
    return {"status": "completed", "counts": counts, "items": items}


def describe_batch_event(
    occurrence: Occurrence, batch_id: str, bucket: str | None, outcomes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the event of a completed batch says; see :func:`describe_outcomes`."""
    return {**_begin(occurrence), "batch_id": batch_id, "bucket": bucket, **outcomes}


def encode_event(said: dict[str, Any]) -> str:
    """Return the JSON of an event; without its context if it is longer than MAX_BODY_BYTES."""
    body = json.dumps(said, default=_encode)
    if len(body) <= MAX_BODY_BYTES or "context" not in said:
        return body
    return encode_event({name: value for name, value in said.items() if name != "context"})


def _identify(
    occurrence: Occurrence, job_id: str, image_id: str, bucket: str | None
) -> dict[str, Any]:
    return {**_begin(occurrence), "job_id": job_id, "image_id": image_id, "bucket": bucket}


def _begin(occurrence: Occurrence) -> dict[str, Any]:
    return {
        "id": occurrence.event_id,
        "type": PUBLIC_TYPES[occurrence.event_type],
        "timestamp": occurrence.created_at,
    }


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return clock.to_text(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
