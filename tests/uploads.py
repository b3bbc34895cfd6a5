"""Submitting uploads as the API does, without the API."""

from __future__ import annotations

import hashlib
import uuid

from sqlalchemy import Connection, select

from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender, Upload, submit
from tests.images import encode, photo


def submit_to(
    service: Service, data: bytes | None = None, *, bucket: str = "photos", user_id: str = "ann"
) -> Job:
    """Write *data* to the folder for received uploads and submit it."""
    data = encode(photo(80, 60), "JPEG") if data is None else data
    path = service.incoming / uuid.uuid4().hex
    path.write_bytes(data)
    return submit(service, Upload(path, hashlib.sha256(data).hexdigest(), bucket), Sender(user_id))[
        0
    ]


def list_all_jobs(connection: Connection) -> list[Job]:
    """Return all jobs that are not deleted, newest first."""
    query = select(processing_jobs).where(processing_jobs.c.deleted_at.is_(None))
    rows = connection.execute(query.order_by(processing_jobs.c.job_id.desc())).mappings()
    return [Job.from_row(dict(row)) for row in rows]
