"""Rows 1 to 23 of the acceptance table: no file crashes the service or the command line."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.storage.protocol import MARKER_NAME
from imageprocessor.tokens import sign_token
from tests.cli.conftest import run_python
from tests.hostile.files import JPEG, HostileFile, list_files
from tests.images import SENTINELS
from tests.server.conftest import UPLOAD, count_jobs

FILES = list(list_files())
MEGABYTE = 1024 * 1024
COMMANDS = """
import json, sys
from imageprocessor.cli import main
status = []
for arguments in (["process", sys.argv[1], "--out", "web", "--json"], ["inspect", sys.argv[1]],
                  ["strip", sys.argv[1], "-o", "stripped"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        status.append(end.code or 0)
    sys.argv[1] = arguments[1]
    print("---", file=sys.stderr, flush=True)
print(json.dumps(status))
"""

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.row}: {file.name}")


@dataclass(frozen=True, slots=True)
class Installation:
    """A service, a client for it, and a user's Authorization header."""

    service: Service
    client: TestClient
    headers: dict[str, str]

    def upload(self, data: bytes) -> Any:
        files = {"file": ("holiday.jpg", data, "image/jpeg")}
        return self.client.post(
            UPLOAD, files=files, data={"bucket": "photos"}, headers=self.headers
        )

    def finish(self, answer: Any) -> dict[str, Any]:
        """Run the accepted job and return its status."""
        run_job(self.service, answer.json()["job_id"], "test")
        status: dict[str, Any] = self.client.get(answer.json()["status_url"]).json()
        return status

    def files(self) -> set[Path]:
        folders = (self.service.incoming, self.service.settings.data_dir / "staging")
        paths = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        return {path for path in paths if path.name != MARKER_NAME}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    values = {
        "data_dir": tmp_path_factory.mktemp("installation"),
        "image_sizes": {"thumbnail": 20, "medium": 60},
        "rate_limit_max_uploads": 10_000,
    }
    settings = Settings.model_validate(values)
    with open_service(settings) as service, TestClient(create_app(settings)) as client:
        yield Installation(
            service, client, {"Authorization": f"Bearer {sign_token(settings, 'ann')}"}
        )


@each_file
def test_each_file_has_its_outcome_and_the_next_upload_works(
    file: HostileFile, installation: Installation
) -> None:
    answer = installation.upload(file.make())
    assert answer.status_code == file.status, answer.text
    if file.status == 202:
        check_job(file, installation, answer)
    else:
        assert answer.json()["code"] == file.code
    assert installation.files() == set()
    assert installation.finish(installation.upload(JPEG))["status"] == "completed"


def check_job(file: HostileFile, installation: Installation, answer: Any) -> None:
    ended = installation.finish(answer)
    assert (ended["status"], ended["error_code"], ended["attempts"]) == (
        "failed" if file.code else "completed",
        file.code,
        1,
    )
    result = installation.client.get(f"{answer.json()['status_url']}/result").json()
    if file.code is None:
        assert tuple(result["metadata"]["warnings"]) == file.warnings
        for url in result["urls"].values():
            check_bytes(installation.client.get(url))


def check_bytes(answer: Any) -> None:
    """Check that the response is a WebP that no browser interprets as anything else."""
    assert answer.content[8:12] == b"WEBP"
    assert not [mark for mark in [*SENTINELS, b"<script>", b"PK\x05\x06"] if mark in answer.content]
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.status != 202], ids=lambda file: file.name
)
def test_a_refused_file_creates_no_job_and_uses_no_quota(
    file: HostileFile, installation: Installation
) -> None:
    before = installation.upload(JPEG)
    installation.finish(before)
    jobs = count_jobs(installation.service)
    assert installation.upload(file.make()).status_code == file.status
    assert count_jobs(installation.service) == jobs
    after = installation.upload(JPEG)
    assert (
        int(after.headers["X-RateLimit-Remaining"])
        == int(before.headers["X-RateLimit-Remaining"]) - 1
    )
    installation.finish(after)


def test_a_form_must_have_exactly_one_file(installation: Installation) -> None:
    fields = {"bucket": "photos"}
    none = installation.client.post(
        UPLOAD, data=fields, headers=installation.headers, files={"other": ("a", b"")}
    )
    assert (none.status_code, none.json()["code"]) == (422, "file_missing")
    files = [("file", ("a", JPEG)), ("file", ("b", JPEG))]
    two = installation.client.post(UPLOAD, data=fields, headers=installation.headers, files=files)
    assert (two.status_code, two.json()["code"]) == (400, "file_repeated")
    assert installation.files() == set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "file", [file for file in FILES if file.row in (10, 11)], ids=lambda file: file.name
)
def test_a_bomb_is_refused_within_20_megabytes(
    file: HostileFile, installation: Installation
) -> None:
    data = file.make()
    installation.finish(installation.upload(JPEG))
    before = resident_bytes()
    answer = installation.upload(data)
    if answer.status_code == 202:
        installation.finish(answer)
    assert resident_bytes() - before < 20 * MEGABYTE


def resident_bytes() -> int:
    """Return the resident memory of this process, without free memory that its allocator keeps."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.code], ids=lambda file: f"{file.row}: {file.name}"
)
def test_the_command_line_prints_one_line_about_a_bad_file(
    file: HostileFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jpg").write_bytes(file.make())
    ran = run_python(COMMANDS, "bad.jpg")
    *_, report, statuses = ran.out.strip().rsplit("\n", 1)
    assert f'"error_code": "{file.code}"' in report
    processed, *others = json.loads(statuses)
    assert processed == 1
    for status, said in zip(others, ran.err.split("---\n")[1:3], strict=True):
        assert (status, said.count("\n")) in {(1, 1), (0, 1), (0, 0)}
    assert "Traceback" not in ran.err
