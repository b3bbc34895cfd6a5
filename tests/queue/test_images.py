from __future__ import annotations

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from imageprocessor.errors import (
    ImageNotFoundError,
    JobNotFoundError,
    TooManyIdsError,
    UnknownSizeError,
    WorkerLostError,
)
from imageprocessor.queue.access import ANYONE, OPERATOR, Caller
from imageprocessor.queue.attempts import fail_attempt, run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import webhook_deliveries, webhook_endpoints
from imageprocessor.queue.images import delete_image, read_image, read_images
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs import job_store, outbox
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.jobs.webhooks import Endpoint
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service
from tests.queue.conftest import Submit

ANN, BOB = Caller("ann"), Caller("bob")


def test_unknown_size_error_lists_the_known_sizes(service: Service, done: Job) -> None:
    with pytest.raises(UnknownSizeError, match="thumbnail, medium"):
        read_image(service, done.image_id, ANYONE, "huge")


def test_batch_keeps_the_requested_order_and_lists_missing_ids(
    service: Service, submit_image: Submit
) -> None:
    jobs = [submit_image() for _ in range(3)]
    for job in jobs[:2]:
        run_job(service, job.job_id, "worker")
    stranger = str(uuid.uuid4())
    asked = [jobs[1].image_id, stranger, jobs[0].image_id, jobs[2].image_id]
    found, missing = read_images(service, asked, ANYONE, "medium")
    assert [job.image_id for job in found] == [jobs[1].image_id, jobs[0].image_id]
    assert missing == [stranger, jobs[2].image_id]


@pytest.mark.parametrize("count", [0, 51])
def test_batch_size_is_limited(count: int, service: Service) -> None:
    with pytest.raises(TooManyIdsError):
        read_images(service, [str(uuid.uuid4())] * count, ANYONE, "medium")


def test_deleted_image_is_gone_with_all_its_bytes(service: Service, done: Job) -> None:
    delete_image(service, done.image_id, ANN)
    assert list(service.storage.list()) == []
    with pytest.raises(JobNotFoundError):
        read_job(service, done.job_id, OPERATOR)
    with pytest.raises(ImageNotFoundError):
        delete_image(service, done.image_id, ANN)


def test_deletion_removes_what_the_client_sent_from_webhooks_that_wait(
    service: Service, submit_image: Submit
) -> None:
    endpoint = Endpoint(name="shop", url="", secret="", created_at=clock.utc_now())
    with service.database.write() as connection:
        connection.execute(webhook_endpoints.insert().values(endpoint.to_row()))
    job, other = (submit_image(metadata='{"name": "Ann"}') for _ in range(2))
    run_job(service, job.job_id, "worker")
    before = list_deliveries(service)
    with service.database.write() as connection:  # what was sent stays as it was sent
        delivered = webhook_deliveries.c.delivery_id == before[0]["delivery_id"]
        connection.execute(webhook_deliveries.update().where(delivered).values(status="delivered"))
    delete_image(service, job.image_id, ANN)
    *after, deletion = list_deliveries(service)
    assert [row["image_id"] for row in before] == [job.image_id, other.image_id, job.image_id]
    assert after[0] == {**before[0], "status": "delivered"}
    assert after[1] == before[1]
    assert after[2] == {**before[2], "body": after[2]["body"]}
    said = json.loads(before[2]["body"])
    assert said.pop("context") == {"name": "Ann"}
    assert json.loads(after[2]["body"]) == said
    assert "Ann" not in deletion["body"]


def list_deliveries(service: Service) -> list[dict[str, Any]]:
    query = select(webhook_deliveries).order_by(webhook_deliveries.c.delivery_id)
    with service.database.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def test_pending_image_is_deleted_with_its_upload_and_never_runs(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    delete_image(service, job.image_id, ANN)
    assert list(service.staging.list()) == []
    run_job(service, job.job_id, "worker")
    assert list(service.storage.list()) == []


def test_deletion_keeps_the_upload_of_a_job_that_was_just_claimed(
    service: Service, submit_image: Submit
) -> None:
    job = submit_image()
    with ThreadPoolExecutor(1) as pool:
        with service.database.write() as connection:
            claimed = job_store.claim(
                connection, job.job_id, "worker", clock.utc_now(), timedelta(minutes=1)
            )
            deletion = pool.submit(delete_image, service, job.image_id, ANN)
            # By now the deletion waits for this transaction; on PostgreSQL it has read the old row.
            time.sleep(0.3)
            assert not deletion.done()
        deletion.result(10)
    assert claimed
    assert service.staging.exists(claimed.staging_key or "")
    fail_attempt(service, claimed, WorkerLostError("The worker ended."))
    assert list(service.staging.list()) == []
    assert sweep(service)["deleted_images"] == 0, "the end of the attempt deleted it"


def test_one_of_several_concurrent_deletions_succeeds(service: Service, done: Job) -> None:
    start = threading.Barrier(4)

    def delete(_: int) -> bool:
        start.wait()
        try:
            delete_image(service, done.image_id, ANN)
        except ImageNotFoundError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(delete, range(4))) == 1
    with service.database.read() as connection:
        events = [event["event_type"] for event in outbox.list_events(connection, done.job_id)]
    assert events.count("deleted") == 1


def test_idempotency_key_of_a_deleted_image_may_be_used_again(
    service: Service, submit_image: Submit
) -> None:
    first = submit_image(key="k")
    delete_image(service, first.image_id, ANN)
    assert submit_image(key="k").job_id != first.job_id
