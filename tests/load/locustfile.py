"""Load a service as clients do: upload, poll until the job has ended, read result and image.

    JWT_SECRET_KEY=… locust -f tests/load/locustfile.py --host https://images.example.com

Needs locust, PyJWT and Pillow, but nothing from this project. Each user has its own name, and so
its own upload limit. A 429 counts as a success; the user then waits as long as it asks, at most
60 s.
"""

from __future__ import annotations

import io
import os
import random
import time
import uuid
from typing import Any

import jwt
from locust import HttpUser, between, task  # type: ignore[import-not-found] # it has its own environment
from PIL import Image

API = "/api/v1/images"
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120


def make_image() -> bytes:
    """Return a JPEG of about 200 KB that differs from every other upload."""
    light = Image.effect_noise((random.randrange(600, 900), random.randrange(600, 900)), 30)
    file = io.BytesIO()
    Image.merge("RGB", [light, light.rotate(90), light.rotate(180)]).save(file, "JPEG", quality=80)
    return file.getvalue()


def make_token(user: str) -> str:
    """Return a token that the service accepts for a day."""
    optional = {"aud": os.environ.get("JWT_AUDIENCE"), "iss": os.environ.get("JWT_ISSUER")}
    claims: dict[str, Any] = {"sub": user, "exp": int(time.time()) + 86_400}
    claims.update({name: value for name, value in optional.items() if value})
    return jwt.encode(
        claims, os.environ["JWT_SECRET_KEY"], algorithm=os.environ.get("JWT_ALGORITHM", "HS256")
    )


class Client(HttpUser):  # type: ignore[misc] # as above
    """One client of the service."""

    wait_time = between(0.5, 2)

    def on_start(self) -> None:
        self.client.headers["Authorization"] = (
            f"Bearer {make_token(f'load-{uuid.uuid4().hex[:12]}')}"
        )
        self.image = make_image()

    @task  # type: ignore[untyped-decorator] # as above
    def upload_and_wait(self) -> None:
        """Upload an image, wait for its job, and read the result."""
        form = {"files": {"file": ("a.jpg", self.image)}, "data": {"bucket": "load-test"}}
        with self.client.post(f"{API}/upload", catch_response=True, **form) as answer:
            if answer.status_code == 429:
                answer.success()
                time.sleep(min(60, int(answer.headers["Retry-After"])))
                return
        if answer.status_code == 202 and self.wait_until_completed(answer.json()["status_url"]):
            self.read(answer.json())

    def wait_until_completed(self, status_url: str) -> bool:
        """Poll as clients do; return whether there is a result. A failed job is a failure."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with self.client.get(
                status_url, name=f"{API}/jobs/[id]", catch_response=True
            ) as answer:
                status = answer.json().get("status")
                if status == "failed":
                    answer.failure(f"the job failed: {answer.json()['error_code']}")
            if status in {"completed", "failed"}:
                return bool(status == "completed")
            time.sleep(POLL_SECONDS)
        return False

    def read(self, accepted: dict[str, str]) -> None:
        """Read the result and one image."""
        self.client.get(f"{accepted['status_url']}/result", name=f"{API}/jobs/[id]/result")
        self.client.get(
            f"{API}/{accepted['image_id']}/direct?size=medium", name=f"{API}/[id]/direct"
        )
