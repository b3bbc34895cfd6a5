"""The reference for the service: the bare framework, doing only what durability requires.

Run it under uvicorn with the options of `imageprocessor serve`; its files are in the folder
DATA_DIR.
"""

from __future__ import annotations

import os
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, UploadFile

from imageprocessor.queue.database.sqlite import sqlite_module
from imageprocessor.server.schemas import ACCEPTED, JobState, UploadAccepted

FOLDER = Path(os.environ["DATA_DIR"])
CONSTANT = JobState(
    job_id=str(uuid.UUID(int=1)),
    image_id=str(uuid.UUID(int=2)),
    status="pending",
    created_at=datetime(2024, 11, 8, 14, tzinfo=UTC),
    completed_at=None,
    error=None,
    error_code=None,
    attempts=0,
)

app = FastAPI(openapi_url=None)
# Threads that wait inside SQLite sleep for longer than a commit takes.
one_writer = threading.Lock()


@app.get("/jobs/{job_id}", response_model_exclude_unset=True)
async def get_job(job_id: str) -> JobState:  # noqa: ARG001 - the route needs it
    """Answer a status check with a constant."""
    return CONSTANT


@app.post("/upload", status_code=202)
def upload_image(file: UploadFile, bucket: Annotated[str, Form()]) -> UploadAccepted:
    """Store an upload without checks.

    Flush the file and its folder, and commit one row with synchronous=FULL.
    """
    job_id = str(uuid.uuid4())
    _write(FOLDER / job_id, file.file.read())
    with one_writer:
        database.execute("INSERT INTO uploads VALUES (?, ?)", (job_id, bucket))
    return UploadAccepted(
        job_id=job_id, image_id=job_id, status_url=f"/jobs/{job_id}", message=ACCEPTED
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_database() -> Any:
    connection = sqlite_module().connect(
        FOLDER / "uploads.db", isolation_level=None, check_same_thread=False
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS uploads (job_id TEXT PRIMARY KEY, bucket TEXT NOT NULL)"
    )
    return connection


database = _open_database()
