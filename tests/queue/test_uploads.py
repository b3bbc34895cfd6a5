from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from imageprocessor.errors import (
    DatabaseUnavailableError,
    IdempotencyKeyReusedError,
    ImageProcessorError,
    InvalidBucketError,
    StorageFullError,
    UnknownWebhookError,
)
from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender, Upload, check_quota, submit
from imageprocessor.queue.webhooks import add_endpoint, disable_endpoint
from tests.images import encode, photo, png_bomb
from tests.queue.conftest import Submit, lock_tables, with_settings
from tests.uploads import list_all_jobs

Receive = Callable[..., Upload]


def all_jobs(service: Service) -> list[Job]:
    with service.database.read() as connection:
        return list_all_jobs(connection)


def remaining(service: Service, user_id: str = "ann") -> int:
    return check_quota(service, Sender(user_id)).remaining


def test_accepted_upload_is_staged_counted_and_pending(
    service: Service, submit_image: Submit
) -> None:
    data = encode(photo(80, 60), "JPEG")
    job = submit_image(data, metadata='{"album": 7}')
    assert service.staging.get(job.staging_key or "") == data
    assert [stored.status for stored in all_jobs(service)] == [JobStatus.PENDING]
    assert all_jobs(service)[0] == job
    assert job.context == {"album": 7}
    assert remaining(service) == service.settings.rate_limit_max_uploads - 1


REFUSED: dict[str, dict[str, Any]] = {
    "file_empty": {"data": b""},
    "type_unsupported": {"data": b"not an image, whatever its name"},
    "image_too_large": {"data": png_bomb(65_535, 65_535)},
    "bucket_invalid": {"bucket": "../../etc"},
    "metadata_invalid": {"metadata": "[1]"},
    "webhook_unknown": {"webhook": "nobody"},
}


@pytest.mark.parametrize("code", REFUSED)
def test_refused_upload_leaves_no_row_and_no_staged_file_and_spends_no_quota(
    code: str, service: Service, receive: Receive
) -> None:
    upload = receive(**REFUSED[code])
    with pytest.raises(ImageProcessorError) as caught:
        submit(service, upload, Sender("ann"))
    assert caught.value.code == code
    assert all_jobs(service) == []
    assert list(service.staging.list()) == []
    assert remaining(service) == service.settings.rate_limit_max_uploads


def test_malformed_webhook_is_refused(service: Service, receive: Receive) -> None:
    for name in ("Shop", "sh\0p", "x" * 64, "https://shop.example.com/", "-"):
        with pytest.raises(UnknownWebhookError):
            submit(service, receive(webhook=name), Sender("ann"))
    assert list(service.staging.list()) == []


def test_webhook_of_an_upload_must_be_enabled_and_is_part_of_its_payload(
    service: Service, submit_image: Submit
) -> None:
    add_endpoint(service, "shop", "http://127.0.0.1/", allows_private=True)
    job = submit_image(webhook="shop", key="k1")
    assert all_jobs(service) == [job]
    assert job.webhook == "shop"
    with pytest.raises(IdempotencyKeyReusedError):
        submit_image(key="k1")

    disable_endpoint(service, "shop", "test")
    assert submit_image(webhook="shop", key="k1") == job, "it was accepted before"
    with pytest.raises(UnknownWebhookError, match="'shop'"):
        submit_image(webhook="shop")


def test_bucket_must_be_an_allowed_one(service: Service, receive: Receive) -> None:
    service = with_settings(service, allowed_buckets=("photos",))
    submit(service, receive(bucket="photos"), Sender("ann"))
    with pytest.raises(InvalidBucketError) as caught:
        submit(service, receive(bucket="others"), Sender("ann"))
    assert "photos" not in str(caught.value), "other users' buckets are not listed"


@pytest.mark.parametrize("max_uploads", [50, 1])
def test_parallel_uploads_with_one_idempotency_key_are_one_job(
    max_uploads: int, service: Service, receive: Receive
) -> None:
    service, start = (
        with_settings(service, rate_limit_max_uploads=max_uploads),
        threading.Barrier(6),
    )

    def send(upload: Upload) -> Job:
        start.wait()
        return submit(service, upload, Sender("ann", "k1"))[0]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, [receive() for _ in range(6)]))
    assert answers == all_jobs(service) * 6
    assert [stored.key for stored in service.staging.list()] == [answers[0].staging_key]
    assert check_quota(service, Sender("ann", "k1")).remaining == max_uploads - 1


def test_lost_commit_answer_keeps_the_source_of_a_queued_upload(
    service: Service, receive: Receive
) -> None:
    database = service.database
    losing = replace(
        service,
        database=LosesCommitAnswers(database.connections, reads_inline=database.reads_inline),
    )
    with pytest.raises(DatabaseUnavailableError):
        submit(losing, receive(), Sender("ann", "k1"))
    (queued,) = all_jobs(service)
    assert service.staging.exists(queued.staging_key or "")
    assert submit(service, receive(), Sender("ann", "k1"))[0] == queued


class LosesCommitAnswers(Database):
    """A database whose connection breaks after the commit, before the caller learns of it."""

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        with Database.write(self, durable=durable) as connection:
            yield connection
        raise DatabaseUnavailableError("The connection is lost.")


def test_every_database_keeps_client_input_unchanged(service: Service, receive: Receive) -> None:
    sender = Sender("ü图" * 127 + "é", "k" * 255, "r" * 64)
    context = '{"nul \\u0000": "\\u0000\\ud83d\\ude00 图", "number": 1e300}'
    job, _ = submit(service, receive(metadata=context, bucket="b" * 63), sender)
    assert all_jobs(service) == [job]
    assert job.context == {"nul \0": "\0😀 图", "number": 1e300}
    assert submit(service, receive(metadata=context, bucket="b" * 63), sender)[0] == job


def test_same_idempotency_key_and_payload_returns_the_same_job_and_spends_no_quota(
    service: Service, submit_image: Submit
) -> None:
    first = submit_image(key="k1")
    assert submit_image(key="k1").job_id == first.job_id
    assert submit_image(key="k1", user_id="bob").job_id != first.job_id
    assert len(list(service.staging.list())) == 2
    assert remaining(service) == service.settings.rate_limit_max_uploads - 1


def test_repeated_upload_is_flushed_before_it_is_accepted_again(
    service: Service, submit_image: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, the first request may still wait for the disk."""

    def fail(_: Database) -> None:
        raise DatabaseUnavailableError("The disk fails.")

    submit_image(key="k1")
    monkeypatch.setattr(Database, "flush", fail)
    with pytest.raises(DatabaseUnavailableError):
        submit_image(key="k1")


def test_repeated_idempotency_key_is_accepted_in_a_full_window(
    service: Service, receive: Receive
) -> None:
    service, sender = with_settings(service, rate_limit_max_uploads=1), Sender("ann", "k1")
    first, _ = submit(service, receive(), sender)
    assert check_quota(service, sender).remaining == 0
    assert submit(service, receive(), sender)[0].job_id == first.job_id


def test_same_idempotency_key_with_another_payload_is_refused(
    service: Service, submit_image: Submit
) -> None:
    submit_image(key="k1")
    with pytest.raises(IdempotencyKeyReusedError):
        submit_image(encode(photo(30, 30), "PNG"), key="k1")
    assert len(list(service.staging.list())) == 1


def test_locked_database_refuses_the_upload_and_keeps_nothing(
    service: Service, receive: Receive
) -> None:
    with service.database.write() as connection:
        lock_tables(connection)
        with pytest.raises(DatabaseUnavailableError):
            submit(service, receive(), Sender("ann"))
    assert list(service.staging.list()) == []
    assert all_jobs(service) == []


def test_full_disk_refuses_the_upload_and_keeps_nothing(
    service: Service, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    upload = receive()
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(StorageFullError):
        submit(service, upload, Sender("ann"))
    assert all_jobs(service) == []
    assert list(service.staging.list()) == []
