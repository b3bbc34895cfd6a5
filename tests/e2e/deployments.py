"""Deployments of the service as real processes that differ only in environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import jwt

from tests.servers import find_free_port, run_server
from tests.servers.processes import run_process, wait_for

KEY = "tests-only-tests-only-tests-only-tests-only"
UPLOADS_PER_USER = 4
SETTINGS = {
    "ADMIN_UI": "true",
    "JWT_SECRET_KEY": KEY,
    "WORKER_CONCURRENCY": "1",
    "RATE_LIMIT_MAX_UPLOADS": str(UPLOADS_PER_USER),
    # longer than the tests take: a new window would reset the count
    "RATE_LIMIT_WINDOW_MINUTES": "10080",
}
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
SERVE = [sys.executable, "-m", "imageprocessor", "serve"]
CELERY_WORKER = [
    sys.executable,
    "-m",
    "celery",
    "-A",
    "imageprocessor.queue.celery_app",
    "worker",
    "--concurrency=1",
]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running service and its environment, which CLI commands share."""

    url: str
    folder: Path
    settings: Mapping[str, str]

    @property
    def redirects(self) -> bool:
        """Whether images are fetched from S3 rather than from the service."""
        return self.settings.get("STORAGE_BACKEND") == "s3"

    def run(self, *arguments: str) -> str:
        """Run a CLI command and return its output."""
        command = [sys.executable, "-m", "imageprocessor", *arguments]
        environ = {**os.environ, **self.settings}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> dict[str, bytes]:
        """Return the files in storage and staging; skip those deleted in the meantime."""
        found: dict[str, bytes] = {}
        if self.redirects:
            bucket = connect_s3(self.settings["S3_ENDPOINT_URL"]).Bucket(self.settings["S3_BUCKET"])
            for stored in bucket.objects.all():
                with suppress(bucket.meta.client.exceptions.NoSuchKey):
                    found[stored.key] = stored.get()["Body"].read()
            return found
        for path in (
            path
            for name in ("storage", "staging")
            for path in (self.folder / "data" / name).rglob("*")
        ):
            with suppress(FileNotFoundError, IsADirectoryError):
                found[str(path)] = path.read_bytes()
        return found


@contextmanager
def run_deployment(settings: Mapping[str, str], folder: Path) -> Iterator[Deployment]:
    """Run the service with *settings* as documented, until the context ends."""
    settings = {**SETTINGS, "DATA_DIR": str(folder / "data"), **settings}
    place: dict[str, Any] = {"cwd": folder, "env": {**os.environ, **settings}}
    celery = settings.get("QUEUE_BACKEND") == "celery"
    worker = run_process(CELERY_WORKER, folder / "worker.log", **place) if celery else nullcontext()
    port = find_free_port()
    serve = [*SERVE, "--port", str(port)]
    with worker, run_server(serve, port, folder / "serve.log", **place):
        deployment = Deployment(f"http://127.0.0.1:{port}", folder, settings)
        with connect(deployment.url, "anyone") as http:
            wait_for(lambda: count_workers(http))
        yield deployment


def make_bucket(endpoint_url: str) -> dict[str, str]:
    """Create a bucket on an S3 server and return the settings for it."""
    name = f"images-{uuid.uuid4().hex}"
    connect_s3(endpoint_url).create_bucket(Bucket=name)
    return {"STORAGE_BACKEND": "s3", "S3_ENDPOINT_URL": endpoint_url, "S3_BUCKET": name, **S3_KEYS}


def connect_s3(endpoint_url: str) -> Any:
    return boto3.resource(
        "s3",
        "us-east-1",
        aws_access_key_id="t",
        aws_secret_access_key="t",
        endpoint_url=endpoint_url,
    )


def connect(url: str, user: str, **claims: str) -> httpx.Client:
    """Return a client of the service at *url* with a token of *user*."""
    token = jwt.encode({"sub": user, **claims}, KEY, algorithm="HS256")
    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
        verify=False,  # loading certificates would take longer than most tests
    )


def count_workers(http: httpx.Client) -> int:
    workers: int = http.get("/api/v1/health/stats").json()["workers"]["active_workers"]
    return workers


def upload(
    http: httpx.Client, data: bytes, *, metadata: str = "{}", **headers: str
) -> httpx.Response:
    return http.post(
        "/api/v1/images/upload",
        files={"file": ("photo.jpg", data, "image/jpeg")},
        data={"bucket": "photos", "metadata": metadata},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def wait_for_end(http: httpx.Client, accepted: httpx.Response) -> dict[str, Any]:
    """Return the status of an accepted upload once it is final."""
    assert accepted.status_code == 202, accepted.text
    statuses: list[dict[str, Any]] = []

    def ended() -> bool:
        statuses.append(http.get(accepted.json()["status_url"]).raise_for_status().json())
        return statuses[-1]["status"] in {"completed", "failed"}

    wait_for(ended)
    return statuses[-1]


def process(http: httpx.Client, data: bytes, **upload_options: str) -> Any:
    """Upload an image, wait until it is processed, and return the result."""
    accepted = upload(http, data, **upload_options)
    status = wait_for_end(http, accepted)
    assert status["status"] == "completed", status
    return http.get(f"{accepted.json()['status_url']}/result").json()
