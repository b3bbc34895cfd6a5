"""The events that the OpenAPI document describes are those that webhooks receive."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from starlette.testclient import TestClient

from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.tables import webhook_deliveries
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import add_endpoint
from imageprocessor.server.routes.webhooks import (
    BatchCompleted,
    ImageAccepted,
    ImageCompleted,
    ImageDeleted,
    ImageFailed,
)
from tests.images import encode, photo, truncated
from tests.uploads import submit_to

MODELS: dict[str, type[BaseModel]] = {
    "image.accepted": ImageAccepted,
    "image.completed": ImageCompleted,
    "image.failed": ImageFailed,
    "image.deleted": ImageDeleted,
    "batch.completed": BatchCompleted,
}


def test_every_body_has_the_described_fields_and_no_other(
    service: Service, client: TestClient, token: Callable[..., dict[str, str]]
) -> None:
    add_endpoint(service, "shop", "http://127.0.0.1:9/", allows_private=True)
    good = submit_to(service)
    bad = submit_to(service, truncated(encode(photo(80, 60), "JPEG"), 0.5))
    for job in (good, bad):
        run_job(service, job.job_id, "worker")
    delete_image(service, good.image_id, OPERATOR)
    refused = [("file", ("a.txt", b"no image"))]
    client.post(
        "/api/v1/images/batch", files=refused, data={"bucket": "photos"}, headers=token("ann")
    )

    bodies = list_bodies(service)
    assert {body["type"] for body in bodies} == set(MODELS)
    for body in bodies:
        model = MODELS[body["type"]].model_validate(body)
        assert model.model_fields_set == set(body)


def list_bodies(service: Service) -> list[dict[str, Any]]:
    with service.database.read() as connection:
        bodies = connection.scalars(select(webhook_deliveries.c.body)).all()
    return [json.loads(body) for body in bodies]
