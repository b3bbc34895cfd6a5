"""The service matches its OpenAPI document in all checks of Schemathesis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.servers import find_free_port, run_server
from tests.servers.processes import wait_for

KEY = "tests-only-tests-only-tests-only-tests-only"
ROOT = Path(__file__).parents[2]
IMAGES = 4
OPTIONS = [
    "--checks=all",
    "--mode=all",
    "--phases=examples,coverage,fuzzing,stateful",
    "--max-response-time=5",
]
SEED = ["--generation-deterministic", "--max-examples=10"]


@contextmanager
def run_service(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    port = find_free_port()
    own = {
        "DATA_DIR": str(folder / "data"),
        "JWT_SECRET_KEY": KEY,
        "RATE_LIMIT_MAX_UPLOADS": "1000000",
    }
    environ = {**os.environ, **own, "WORKER_CONCURRENCY": "1", **settings}
    command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
    with run_server(command, port, folder / "serve.log", cwd=folder, env=environ):
        yield f"http://127.0.0.1:{port}"


def process_images(url: str, authorization: str) -> tuple[list[dict[str, str]], str]:
    """Upload some images; return the responses once they are processed, and the id of a batch."""
    files = {"file": encode(photo(80, 60), "JPEG")}
    with httpx.Client(
        base_url=url, headers={"Authorization": authorization}, trust_env=False
    ) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)
        answers = [
            http.post("/api/v1/images/upload", files=files, data={"bucket": "photos"})
            for _ in range(IMAGES)
        ]
        accepted: list[dict[str, str]] = [answer.json() for answer in answers]
        for path in [image["status_url"] for image in accepted]:
            wait_for(partial(_is_completed, http, path))
        batch = http.post("/api/v1/images/batch", files=files, data={"bucket": "photos"})
        return accepted, batch.json()["batch_id"]


def _is_completed(http: httpx.Client, path: str) -> bool:
    return bool(http.get(path).json()["status"] == "completed")


@pytest.mark.parametrize(("public_reads", "admin"), [("true", False), ("false", True)])
def test_every_response_matches_the_openapi_document(
    tmp_path: Path, public_reads: str, admin: bool
) -> None:
    authorization = (
        f"Bearer {sign_token(Settings.model_validate({'jwt_secret_key': KEY}), 'ann', admin=admin)}"
    )
    with run_service(tmp_path, {"PUBLIC_READS": public_reads}) as url:
        hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.hostile.schemathesis_hooks"}
        images, batch_id = process_images(url, authorization)
        known = {"SCHEMATHESIS_IMAGES": json.dumps(images), "SCHEMATHESIS_BATCH": batch_id}
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--no-color",
            "run",
            f"{url}/openapi.json",
        ]
        done = subprocess.run(
            [*command, *OPTIONS, *SEED, "--header", f"Authorization: {authorization}"],
            cwd=tmp_path,
            env={**os.environ, **hooks, **known},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 24" in done.stdout, done.stdout
    assert "Traceback" not in (tmp_path / "serve.log").read_text()
