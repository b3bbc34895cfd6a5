"""A client that records every accepted upload, and checks of all of them at the end."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from imageprocessor.environment import load_settings
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.maintenance.sweep import sweep
from imageprocessor.queue.service import Service, open_service
from tests.e2e.deployments import connect, upload
from tests.uploads import list_all_jobs

FINAL = {"completed", "failed"}


@dataclass(slots=True)
class Ledger:
    """All accepted uploads: job ids by Idempotency-Key."""

    url: str
    photo: bytes
    accepted: dict[str, str] = field(default_factory=dict)

    def send(self, key: str | None = None) -> str:
        """Upload with the same key until the answer is 202; return the job's id."""
        key = key or uuid.uuid4().hex
        with connect(self.url, "me") as http:
            while key not in self.accepted:
                try:
                    self.try_once(http, key)
                except httpx.TransportError:
                    time.sleep(0.05)
        return self.accepted[key]

    def try_once(self, http: httpx.Client, key: str) -> None:
        """Upload once; record a 202. A 503 asks for a retry."""
        answer = upload(http, self.photo, Idempotency_Key=key)
        assert answer.status_code in {202, 503}, answer.text
        if answer.status_code == 202:
            self.accepted[key] = answer.json()["job_id"]

    def statuses(self) -> set[str]:
        with connect(self.url, "me") as http:
            jobs = [
                http.get(f"/api/v1/images/jobs/{job_id}").json()
                for job_id in self.accepted.values()
            ]
        return {job["status"] for job in jobs}

    def has_ended(self) -> bool:
        """Return whether all jobs have ended; ask for the newest first, which ends last."""
        try:
            with connect(self.url, "me") as http:
                return all(
                    http.get(f"/api/v1/images/jobs/{job_id}").json()["status"] in FINAL
                    for job_id in reversed(self.accepted.values())
                )
        except httpx.TransportError:
            return False


def check_consistency(
    settings: dict[str, str], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check, after a sweep, that each accepted job ended once and that files match rows."""
    monkeypatch.setattr(
        clock, "utc_now", lambda: datetime.now(UTC) + timedelta(hours=25)
    )  # past every grace
    with open_service(load_settings(settings)) as service:
        sweep(service)
        with service.database.read() as connection:
            jobs = list_all_jobs(connection)
            if service.settings.sqlite_path:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert {job.job_id for job in jobs} == set(ledger.accepted.values())
        for job in jobs:
            check_job(service, job)
        known = {key for job in jobs for key in (job.variant_keys or {}).values()}
        assert {stored.key for stored in service.storage.list()} == known
        assert {stored.key for stored in service.staging.list()} == {
            job.staging_key for job in jobs
        } - {None}
        assert not any(file for folder in service.drafts for file in Path(folder).iterdir())


def check_job(service: Service, job: Job) -> None:
    with service.database.read() as connection:
        event_types = [event["event_type"] for event in outbox.list_events(connection, job.job_id)]
    assert job.status in FINAL
    assert event_types.count("completed") == (job.status == "completed")
    assert job.status == "completed" or job.error_code
    for key in (job.variant_keys or {}).values():
        with Image.open(BytesIO(service.storage.get(key))) as image:
            image.load()
