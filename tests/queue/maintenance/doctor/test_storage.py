from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import pytest

from imageprocessor.queue.maintenance.doctor.finding import Finding, Verdict
from imageprocessor.queue.maintenance.doctor.storage import check_rename, check_storage
from imageprocessor.queue.service import open_service, open_storages
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from tests.conftest import missing
from tests.queue.conftest import list_files
from tests.servers import find_free_port
from tests.servers.faults import run_faulty_proxy
from tests.storage.buckets import create_bucket

OK, WARNING, WRONG = Verdict
ACCESS = {"storage_backend": "s3", "aws_region": "us-east-1", "aws_access_key_id": "key"}


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data")
    with open_service(settings):
        return settings


def in_bucket(tmp_path: Path, s3: str, **changes: Any) -> Settings:
    values = (
        ACCESS
        | {"aws_secret_access_key": "hunter2", "s3_endpoint_url": s3, "s3_bucket": "absent"}
        | changes
    )
    return Settings.model_validate({"data_dir": tmp_path / "data", **values})


def verdicts(settings: Settings) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in check_storage(settings)}


def only_wrong(settings: Settings) -> Finding:
    (found,) = [finding for finding in check_storage(settings) if finding.verdict is WRONG]
    return found


def test_folders_are_ok_and_left_unchanged(local: Settings) -> None:
    before = sorted(local.data_dir.rglob("*"))
    checks = ["image storage", "upload storage", "storage marker", "accepting uploads"]
    assert verdicts(local) == dict.fromkeys(checks, OK)
    assert sorted(local.data_dir.rglob("*")) == before


def test_missing_folders_are_not_created(tmp_path: Path) -> None:
    (found,) = check_storage(Settings(data_dir=tmp_path / "data"))
    assert found.verdict is WARNING
    assert str(tmp_path / "data" / "storage") in found.found
    assert list(tmp_path.iterdir()) == []


def test_unusable_folder_is_wrong(local: Settings) -> None:
    (local.storage_path / ".tmp").rmdir()
    (local.storage_path / ".tmp").write_bytes(b"")
    assert "Not a directory" in only_wrong(local).found


def test_folder_that_truncates_files_is_wrong_and_left_unchanged(
    local: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put
    monkeypatch.setattr(LocalStorage, "put", lambda self, key, data: put(self, key, data[:-1]))
    found = [finding for finding in check_storage(local) if finding.verdict is WRONG]
    assert {finding.found for finding in found} == {"An object was read back with other bytes."}
    assert [path for path in list_files(local.data_dir) if "doctor" in path.name] == []


def test_uploads_that_are_copied_instead_of_renamed_are_a_warning(local: Settings) -> None:
    with TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == local.data_dir.stat().st_dev:
            missing("/dev/shm is not a separate file system")
        (local.data_dir / "incoming").rmdir()
        (local.data_dir / "incoming").symlink_to(other)
        (found,) = [finding for finding in check_storage(local) if finding.verdict is not OK]
        assert list(Path(other).iterdir()) == []
    assert found.verdict is WARNING
    assert "copied" in found.found


def test_uploads_that_cannot_be_staged_are_wrong(local: Settings) -> None:
    _, staging = open_storages(local)
    assert isinstance(staging, LocalStorage)
    assert check_rename(staging, local.data_dir / "gone").verdict is WRONG
    assert list(staging.list()) == []


def test_bucket_that_anybody_can_read_is_wrong(tmp_path: Path, s3: str) -> None:
    settings = in_bucket(tmp_path, s3, s3_bucket=create_bucket(s3))
    publish(f"{s3}/{settings.s3_bucket}")
    found = [finding for finding in check_storage(settings) if finding.verdict is not OK]
    assert [finding.found for finding in found] == [
        "Anybody can read objects without a signature."
    ] * 2
    assert list(open_storages(settings)[0].list()) == []


def test_private_bucket_is_ok(tmp_path: Path, s3: str) -> None:
    found = list(check_storage(in_bucket(tmp_path, s3, s3_bucket=create_bucket(s3))))
    assert {finding.verdict for finding in found} == {OK}
    assert {finding.name.partition(": ")[2] for finding in found} == {"", "URLs", "privacy"}
    assert any("a presigned URL was fetched" in finding.found for finding in found)


def test_each_allowed_bucket_is_tried(tmp_path: Path, s3: str) -> None:
    there = create_bucket(s3)
    settings = in_bucket(tmp_path, s3, s3_bucket=None, allowed_buckets=f"{there},not-there")
    found = verdicts(settings)
    assert (found[f"image storage ({there})"], found["image storage (not-there)"]) == (OK, WRONG)


def test_missing_bucket_is_wrong(tmp_path: Path, s3: str) -> None:
    found = [
        finding for finding in check_storage(in_bucket(tmp_path, s3)) if finding.verdict is WRONG
    ]
    assert [finding.name for finding in found] == [
        "image storage (absent)",
        "upload storage (absent)",
    ]
    assert "bucket" in found[0].found


def test_unreachable_s3_is_wrong_and_its_key_hidden(tmp_path: Path) -> None:
    settings = in_bucket(tmp_path, f"http://127.0.0.1:{find_free_port()}")
    found = list(check_storage(settings))
    assert {finding.verdict for finding in found} == {WRONG}
    assert "hunter2" not in str(found)


def test_unreachable_presigned_urls_are_wrong(tmp_path: Path, s3: str) -> None:
    public = f"http://127.0.0.1:{find_free_port()}"
    settings = in_bucket(tmp_path, s3, s3_bucket=create_bucket(s3), s3_public_endpoint_url=public)
    found = {finding.name.partition(": ")[2]: finding for finding in check_storage(settings)}
    assert (found["URLs"].verdict, found["privacy"].verdict) == (WRONG, WARNING)
    assert "S3_PUBLIC_ENDPOINT_URL" in found["URLs"].fix


def test_presigned_urls_with_other_content_are_wrong(tmp_path: Path, s3: str) -> None:
    with run_stranger() as public:
        settings = in_bucket(
            tmp_path, s3, s3_bucket=create_bucket(s3), s3_public_endpoint_url=public
        )
        found = {finding.name.partition(": ")[2]: finding for finding in check_storage(settings)}
    assert "other bytes" in found["URLs"].found


def test_truncated_response_is_wrong(tmp_path: Path, s3: str) -> None:
    with run_faulty_proxy(int(s3.rpartition(":")[2])) as proxy:
        settings = in_bucket(
            tmp_path, s3, s3_bucket=create_bucket(s3), s3_public_endpoint_url=proxy.url
        )
        proxy.fail("cut")
        found = {finding.name.partition(": ")[2]: finding for finding in check_storage(settings)}
    assert found["URLs"].verdict is WRONG


def publish(bucket_url: str) -> None:
    """Let anybody read what is in the bucket."""
    arn = f"arn:aws:s3:::{bucket_url.rpartition('/')[2]}/*"
    permission = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [permission]})
    with urlopen(
        Request(
            f"{bucket_url}?policy", policy.encode(), {"Content-Type": "text/json"}, method="PUT"
        )
    ):
        pass


@contextmanager
def run_stranger() -> Iterator[str]:
    """Run a web server that answers every URL with other content."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"Welcome!")

        def log_message(self, *_: object) -> None:
            """Log nothing, to keep the tests' output clean."""

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
