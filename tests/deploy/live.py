"""A service started as an operator starts it, and requests to it or to a proxy before it."""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.server.live import BOUNDARY, form_body
from tests.servers import find_free_port, run_server

KEY = "a key for this test, and for nothing else"
UPLOAD = "/api/v1/images/upload"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]  #: names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """The destination of requests: a port of this machine, with or without TLS."""

    port: int
    trust: ssl.SSLContext | None = None

    def connect(self) -> closing[HTTPConnection]:
        if self.trust is None:
            return closing(HTTPConnection("127.0.0.1", self.port, timeout=20))
        return closing(HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.trust))

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request with exactly this *path*."""
        with self.connect() as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def upload(self, image: bytes) -> Answer:
        return self.ask(UPLOAD, "POST", form_body(image), upload_headers())

    def make_image(self) -> str:
        """Upload an image, wait until it is processed and return its id."""
        accepted = self.upload(encode(photo(320, 240), "JPEG"))
        assert accepted.status == 202, accepted
        ids = json.loads(accepted.body)
        for _ in range(300):
            if self.ask(f"/api/v1/images/jobs/{ids['job_id']}/result").status == 200:
                return str(ids["image_id"])
            time.sleep(0.1)
        raise AssertionError(f"{ids} is not completed")


def authorization() -> dict[str, str]:
    settings = Settings.model_validate({"jwt_secret_key": KEY})
    return {"Authorization": f"Bearer {sign_token(settings, 'ann')}"}


def upload_headers() -> dict[str, str]:
    return {**authorization(), "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def image_path(image_id: str, size: str = "thumbnail") -> str:
    return f"/storage/photos/processed/{size}/{image_id}_{size}.webp"


@contextmanager
def run_service(folder: Path, *options: str, **environment: str) -> Iterator[Place]:
    """Run ``imageprocessor serve`` with its data in *folder* until the end of the context."""
    port = find_free_port()
    command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port), *options]
    settings = {
        "DATA_DIR": str(folder),
        "JWT_SECRET_KEY": KEY,
        "WORKER_CONCURRENCY": "1",
        **environment,
    }
    with run_server(
        command, port, folder.with_suffix(".log"), env={**os.environ, **settings}, cwd=folder.parent
    ):
        yield Place(port)
