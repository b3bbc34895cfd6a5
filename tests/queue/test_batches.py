"""Batches on SQLite and PostgreSQL: stored together, completed once, pruned."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count
from stat import S_ISDIR
from typing import Any

import pytest

from imageprocessor.errors import (
    BatchNotFoundError,
    DatabaseUnavailableError,
    MemoryLimitError,
    RateLimitedError,
    StorageFullError,
    UnknownWebhookError,
)
from imageprocessor.queue import attempts, batches, job_control
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.batches import BatchUpload, ReceivedFile, read_batch, submit_batch
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import webhook_deliveries, webhook_endpoints
from imageprocessor.queue.events import feed
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.batch_store import Batch
from imageprocessor.queue.jobs.job import EventType
from imageprocessor.queue.jobs.webhooks import Endpoint
from imageprocessor.queue.maintenance.sweep import UPLOAD_STEP, sweep
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender
from imageprocessor.storage.local import LocalStorage
from tests.images import encode, photo
from tests.queue.conftest import with_settings
from tests.queue.test_uploads import LosesCommitAnswers, all_jobs, remaining

JPEG = encode(photo(80, 60), "JPEG")
Receive = Callable[..., BatchUpload]


@pytest.fixture
def receive(service: Service) -> Receive:
    """Return a function that receives a batch: on disk and, every second file, in memory."""

    def make(*files: bytes, **fields: Any) -> BatchUpload:
        received = []
        for number, data in enumerate(files or [JPEG] * 3):
            path = service.incoming / uuid.uuid4().hex
            path.write_bytes(data)
            content = data if number % 2 else path
            digest = hashlib.sha256(data).hexdigest()
            received.append(ReceivedFile(f"{number}.jpg", content, len(data), digest))
        return BatchUpload(received, **{"bucket": "photos", **fields})

    return make


def submit(service: Service, upload: BatchUpload, key: str | None = None) -> Batch:
    return submit_batch(service, upload, Sender("ann", key, "request-1"))[0]


def job_ids(batch: Batch) -> list[str]:
    return [outcome.job_id for outcome in batch.outcomes if outcome.job_id]


def completions(service: Service, batch: Batch) -> list[dict[str, Any]]:
    """Return the metadata of the events that say that *batch* is completed."""
    with service.database.read() as connection:
        events = outbox.list_events(connection, batch.batch_id)
    assert {event["event_type"] for event in events} <= {EventType.BATCH_COMPLETED}
    assert {(event["image_id"], event["user_id"]) for event in events} <= {(batch.batch_id, "ann")}
    return [event["metadata"] for event in events]


def staged(service: Service) -> list[str]:
    return sorted(stored.key for stored in service.staging.list())


def fail(service: Service, job_id: str) -> None:
    """Let a job without retries fail, in a way that keeps its upload."""
    assert attempts.fail_waiting(service, job_id, "worker", MemoryLimitError("too much"))


def test_a_batch_is_stored_counted_and_pending(service: Service, receive: Receive) -> None:
    batch = submit(service, receive(JPEG, b"text", JPEG))
    jobs = {job.job_id: job for job in all_jobs(service)}
    assert jobs.keys() == set(job_ids(batch))
    assert {job.batch_id for job in jobs.values()} == {batch.batch_id}
    assert staged(service) == sorted(job.staging_key or "" for job in jobs.values())
    assert remaining(service) == service.settings.rate_limit_max_uploads - 2
    stored = read_batch(service, batch.batch_id, OPERATOR)
    assert stored.batch == batch
    assert stored.jobs == jobs
    assert batch.outcomes[1].error_code == "type_unsupported"


def test_a_batch_is_completed_once_whatever_is_retried_or_deleted(
    service: Service, receive: Receive
) -> None:
    service = with_settings(service, max_retries=0)
    batch = submit(service, receive(JPEG, JPEG, JPEG, b"text"))
    done, failed, _ = job_ids(batch)
    fail(service, failed)
    job_control.retry_job(service, failed)
    run_job(service, done, "worker")
    delete_image(service, batch.outcomes[2].image_id or "", OPERATOR)
    assert completions(service, batch) == [], "a job is retried"

    fail(service, failed)
    (outcomes,) = completions(service, batch)
    assert outcomes["counts"] == {"completed": 1, "failed": 1, "deleted": 1, "refused": 1}
    assert [item["status"] for item in outcomes["items"]] == [
        "completed",
        "failed",
        "deleted",
        "refused",
    ]
    assert [item.get("error_code") for item in outcomes["items"]] == [
        None,
        "memory_exceeded",
        None,
        "type_unsupported",
    ]
    completed_at = read_batch(service, batch.batch_id, OPERATOR).batch.completed_at
    assert completed_at

    job_control.retry_job(service, failed)
    run_job(service, failed, "worker")
    for outcome in batch.outcomes[:2]:
        delete_image(service, outcome.image_id or "", OPERATOR)
    assert len(completions(service, batch)) == 1
    assert read_batch(service, batch.batch_id, OPERATOR).batch.completed_at == completed_at


def test_a_batch_without_an_accepted_file_is_completed_at_once(
    service: Service, receive: Receive
) -> None:
    batch = submit(service, receive(b"text", b"x" * 9))
    (outcomes,) = completions(service, batch)
    assert outcomes["counts"]["refused"] == 2
    assert read_batch(service, batch.batch_id, OPERATOR).batch.completed_at


def test_the_last_two_jobs_may_end_at_the_same_moment(
    service: Service, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have ended their job, uncommitted, before either looks whether the batch is completed.

    On SQLite, the second waits for the first to commit.
    """
    is_postgres = not service.database.reads_inline
    meeting = threading.Barrier(2)
    complete = outbox.complete_batch

    def meet(*arguments: Any) -> None:
        if is_postgres:
            meeting.wait(10)
        complete(*arguments)

    for _ in range(3):
        batch = submit(service, receive(JPEG, JPEG))
        monkeypatch.setattr(outbox, "complete_batch", meet)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job_id: run_job(service, job_id, "w"), job_ids(batch)))
        monkeypatch.setattr(outbox, "complete_batch", complete)
        assert len(completions(service, batch)) == 1


def test_webhooks_receive_the_completed_batch(service: Service, receive: Receive) -> None:
    def endpoint(name: str, **options: Any) -> dict[str, Any]:
        url, now = f"https://{name}.example.com", clock.utc_now()
        return Endpoint(name=name, url=url, secret="s", created_at=now, **options).to_row()

    rows = [
        endpoint("batches", event_types=("batch.completed",), buckets=("photos",)),
        endpoint("images", event_types=("image.completed",)),
        endpoint("elsewhere", buckets=("others",)),
        endpoint("named", event_types=("batch.completed",), only_named=True),
    ]
    with service.database.write() as connection:
        connection.execute(webhook_endpoints.delete())
        connection.execute(webhook_deliveries.delete())
        connection.execute(webhook_endpoints.insert(), rows)
    batch = submit(service, receive(JPEG, b"text", webhook="named"))
    with pytest.raises(UnknownWebhookError):
        submit(service, receive(JPEG, webhook="unknown"))
    assert len(staged(service)) == 1
    run_job(service, job_ids(batch)[0], "worker")
    with service.database.write() as connection:
        sent = connection.execute(webhook_deliveries.select()).mappings().all()
        connection.execute(webhook_endpoints.delete())
    found = {row["endpoint"]: row for row in sent}
    assert found.keys() == {"batches", "images", "named"}
    assert found["batches"]["image_id"] == found["batches"]["job_id"] == batch.batch_id
    body = json.loads(found["batches"]["body"])
    shown = feed.fetch_events(service.database, feed.START, 10)
    (of_batch,) = [event for event in shown if event.public_type == "batch.completed"]
    assert json.loads(of_batch.encode("")) == body
    assert body.pop("id")
    clock.from_text(body.pop("timestamp"))
    assert body == {
        "type": "batch.completed",
        "batch_id": batch.batch_id,
        "bucket": "photos",
        "status": "completed",
        "counts": {"completed": 1, "failed": 0, "deleted": 0, "refused": 1},
        "items": [
            {
                "index": 0,
                "job_id": job_ids(batch)[0],
                "image_id": batch.outcomes[0].image_id,
                "status": "completed",
            },
            {"index": 1, "status": "refused", "error_code": "type_unsupported"},
        ],
    }


def test_parallel_batches_with_one_key_are_one_batch(service: Service, receive: Receive) -> None:
    for max_uploads in (50, 3):
        limited = with_settings(service, rate_limit_max_uploads=max_uploads)
        key, uploads = f"key-{max_uploads}", [receive() for _ in range(4)]
        sender = Sender(f"user-{max_uploads}", key)
        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(submit_batch, limited, upload, sender) for upload in uploads]
        answers = {future.result()[0].outcomes for future in sent}
        assert len(answers) == 1
        assert batches.check_quota(limited, sender).remaining == max_uploads - 3
    assert staged(service) == sorted(job.staging_key or "" for job in all_jobs(service))
    assert len(all_jobs(service)) == 6


def test_a_full_window_admits_only_a_repeated_batch(service: Service, receive: Receive) -> None:
    limited = with_settings(service, rate_limit_max_uploads=3)
    submit(limited, receive(), "k1")
    assert batches.check_quota(limited, Sender("ann", "k1")).remaining == 0
    with pytest.raises(RateLimitedError):
        batches.check_quota(limited, Sender("ann", "k2"))


def test_a_fault_of_the_database_or_the_storage_refuses_the_batch_and_keeps_nothing(
    service: Service, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DatabaseUnavailableError("The database is locked.")

    with monkeypatch.context() as patch:
        patch.setattr(job_store, "insert_job", refuse)
        with pytest.raises(DatabaseUnavailableError):
            submit(service, receive())
    assert staged(service) == []

    replace_file, calls = os.replace, count()

    def run_full(*arguments: Any, **options: Any) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", run_full)
        with pytest.raises(StorageFullError):
            submit(service, receive(*[JPEG] * 4))
    assert (staged(service), all_jobs(service)) == ([], [])
    assert remaining(service) == service.settings.rate_limit_max_uploads


def test_a_lost_commit_answer_keeps_the_files_of_a_queued_batch(
    service: Service, receive: Receive
) -> None:
    database = service.database
    losing = LosesCommitAnswers(database.connections, reads_inline=database.reads_inline)
    with pytest.raises(DatabaseUnavailableError):
        submit(replace(service, database=losing), receive(), "k1")
    assert len(staged(service)) == 3
    repeated = submit(service, receive(), "k1")
    assert set(job_ids(repeated)) == {job.job_id for job in all_jobs(service)}


class Killed(BaseException):
    """The process ends: nothing handles this."""


def test_a_crash_before_the_commit_leaves_only_files_that_the_sweep_deletes(
    service: Service,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
    set_clock: Callable[[timedelta], None],
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job_store, "insert_job", kill)
        with pytest.raises(Killed):
            submit(service, receive(), "k1")
    assert len(staged(service)) == 3
    assert all_jobs(service) == []
    set_clock(timedelta(hours=3))
    assert sweep(service, [UPLOAD_STEP]) == {"orphaned_uploads": 3}
    assert staged(service) == []


def test_the_folder_of_a_batch_is_flushed_once_after_its_files(
    service: Service, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(service.staging, LocalStorage)
    copies = [bytes(bytearray(JPEG)) for _ in range(6)]  # the same object would be linked
    upload = receive(*copies)
    are_folders: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        are_folders.append(S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    submit(service, receive())  # makes the folder, and flushes that of the database
    monkeypatch.setattr(os, "fsync", note)
    submit(service, upload)
    assert are_folders == [False] * 6 + [True]


def test_completed_batches_are_pruned_with_the_audit_trail(
    service: Service, receive: Receive, set_clock: Callable[[timedelta], None]
) -> None:
    completed, still_open = submit(service, receive(b"text")), submit(service, receive())
    set_clock(timedelta(days=2))
    sweep(service)
    read_batch(service, completed.batch_id, OPERATOR)  # AUDIT_RETENTION_DAYS=0
    pruning = with_settings(service, audit_retention_days=1)
    assert sweep(pruning)["old_batches"] == 1
    with pytest.raises(BatchNotFoundError):
        read_batch(service, completed.batch_id, OPERATOR)
    read_batch(service, still_open.batch_id, OPERATOR)
