"""Rows 1 to 23 of the acceptance table: no file crashes the service or the command line."""

from __future__ import annotations

import ctypes
import os
import re
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
BAD_FILES = [file for file in FILES if file.code]
#: The command line accepts more formats than the service does by default.
COMMAND_CODES = {"PHP after the magic bytes of a GIF": "image_invalid", "HEIC": "image_truncated"}
# One process for all files, because starting one takes half a second.
COMMANDS = """
import sys
from imageprocessor.cli import main
for name in sys.argv[1:]:
    for arguments in (["process", name, "--out", "web", "--json"], ["inspect", name],
                      ["strip", name, "-o", f"{name}.stripped"]):
        sys.argv[1:] = arguments
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        print("---", flush=True)
        print(f"--- {status}", file=sys.stderr, flush=True)
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


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[HostileFile, list[Ended]]:
    """What `process`, `inspect` and `strip` print about each bad file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bad-files"))
        names = [f"{number}.jpg" for number in range(len(BAD_FILES))]
        for name, file in zip(names, BAD_FILES, strict=True):
            Path(name).write_bytes(file.make())
        ran = run_python(COMMANDS, *names)
    outs = ran.out.split("---\n")[:-1]
    errors = re.split(r"--- (\d+)\n", ran.err)
    ended = map(Ended, map(int, errors[1::2]), outs, errors[:-1:2])
    return {file: [next(ended), next(ended), next(ended)] for file in BAD_FILES}


@pytest.mark.xdist_group("bad files")  # the commands run only once
@pytest.mark.parametrize("file", BAD_FILES, ids=lambda file: f"{file.row}: {file.name}")
def test_the_command_line_prints_one_line_about_a_bad_file(
    file: HostileFile, printed: dict[HostileFile, list[Ended]]
) -> None:
    processed, *others = printed[file]
    assert processed.status == 1
    code = COMMAND_CODES.get(file.name, file.code)
    assert f'"error_code": "{code}"' in processed.out.strip().rpartition("\n")[2]
    for ran in others:
        assert (ran.status, ran.err.count("\n")) in {(1, 1), (0, 1), (0, 0)}
    for ran in printed[file]:
        assert "Traceback" not in ran.err
