from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from imageprocessor.queue.database import clock
from imageprocessor.queue.maintenance.doctor.finding import Finding, Verdict
from imageprocessor.queue.maintenance.doctor.host import (
    check_clock,
    check_memory,
    check_open_files,
    check_space,
)
from imageprocessor.queue.maintenance.doctor.references import read_clocks
from imageprocessor.settings import Settings
from tests.conftest import missing
from tests.servers import find_free_port, run_redis

OK, WARNING, WRONG = Verdict
SetClock = Callable[[timedelta], None]
ON_SMALL_DISK = """
mount -t tmpfs -o size={size},nr_inodes={files} none "$1" || exit 77
exec "$2" -c '
import json, sys
from pathlib import Path
from imageprocessor.queue.maintenance.doctor.host import check_space
from imageprocessor.settings import Settings
[found] = check_space(Settings(data_dir=Path(sys.argv[1]) / "data"))
print(json.dumps([found.verdict, found.found]))
' "$1"
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def everywhere(tmp_path: Path, migrated: str, redis: str, s3: str) -> Settings:
    """A configuration with three servers, each of which has a clock."""
    servers = {"database_url": migrated, "queue_backend": "celery", "redis_url": redis}
    bucket = {"storage_backend": "s3", "s3_bucket": "absent", "s3_endpoint_url": s3}
    return Settings.model_validate({"data_dir": tmp_path, **servers, **bucket})


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        (timedelta(0), OK),
        (timedelta(seconds=30), WARNING),
        (timedelta(hours=1), WRONG),
        (-timedelta(hours=1), WRONG),
    ],
)
def test_clock_is_compared_with_every_server(
    everywhere: Settings, set_clock: SetClock, step: timedelta, verdict: Verdict
) -> None:
    set_clock(step)
    found = list(check_clock(read_clocks(everywhere)))
    assert [finding.found.rpartition("against ")[2][:2] for finding in found] == ["Po", "Re", "S3"]
    assert {finding.verdict for finding in found} == {verdict}


def test_unreachable_servers_are_left_out(tmp_path: Path) -> None:
    port = find_free_port()
    servers = {"queue_backend": "celery", "redis_url": f"redis://127.0.0.1:{port}/0"}
    database = {"database_url": f"postgresql+psycopg://me@127.0.0.1:{port}/x"}
    bucket = {
        "storage_backend": "s3",
        "s3_bucket": "absent",
        "s3_endpoint_url": f"http://127.0.0.1:{port}",
    }
    assert (
        read_clocks(
            Settings.model_validate({"data_dir": tmp_path, **servers, **database, **bucket})
        )
        == {}
    )


def test_clock_without_a_reference_is_ok() -> None:
    (found,) = check_clock(read_clocks(Settings()))
    assert found.verdict is OK
    assert "no other clock to compare" in found.found


def test_unset_clock_is_wrong(set_clock: SetClock) -> None:
    set_clock(timedelta(days=-20 * 365))
    (found,) = check_clock({})
    assert found.verdict is WRONG


def test_drifting_clock_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = clock.utc_now(), iter(range(100))
    monkeypatch.setattr(clock, "utc_now", lambda: now + timedelta(seconds=next(steps)))
    (found,) = check_clock({})
    assert found.verdict is WRONG


def on_small_disk(folder: Path, size: str, files: int = 1000) -> tuple[str, str]:
    """Return verdict and finding of the check on a file system of *size*.

    It is mounted in a namespace that only the check sees.
    """
    script = ON_SMALL_DISK.format(size=size, files=files)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), sys.executable]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        missing("the program 'unshare' is not installed")
    if ran.returncode == 77 or "unshare failed" in ran.stderr:
        missing("file systems cannot be mounted here")
    verdict, found = json.loads(ran.stdout)
    return verdict, found


def test_disk_with_room_is_ok(tmp_path: Path) -> None:
    assert on_small_disk(tmp_path, "4g")[0] == OK


@pytest.mark.parametrize(("size", "verdict"), [("50m", WRONG), ("500m", WARNING)])
def test_disk_without_room_is_reported(tmp_path: Path, size: str, verdict: Verdict) -> None:
    found = on_small_disk(tmp_path, size)
    assert found[0] == verdict
    assert f"are free for {tmp_path}" in found[1]


def test_disk_without_room_for_more_files_is_a_warning(tmp_path: Path) -> None:
    verdict, found = on_small_disk(tmp_path, "4g", files=1)
    assert (verdict, "0 of 1 files" in found) == (WARNING, True)


def test_each_disk_is_reported_once(tmp_path: Path) -> None:
    def names(findings: Iterator[Finding]) -> list[str]:
        return [finding.found.rpartition("for ")[2] for finding in findings]

    assert names(check_space(Settings(data_dir=tmp_path))) == [str(tmp_path)]
    if Path("/dev/shm").stat().st_dev != tmp_path.stat().st_dev:
        two = Settings(data_dir=tmp_path, storage_path=Path("/dev/shm/images"))
        assert sorted(names(check_space(two))) == sorted([str(tmp_path), "/dev/shm/images"])


def test_workers_that_may_exceed_the_memory_are_a_warning() -> None:
    assert check_memory(Settings(worker_concurrency=1, job_memory_limit_mb=512)).verdict is OK
    found = check_memory(Settings(worker_concurrency=64, job_memory_limit_mb=65536))
    assert found.verdict is WARNING
    assert "Set WORKER_CONCURRENCY=" in found.fix


def test_memory_of_a_container_is_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    monkeypatch.setattr("imageprocessor.queue.maintenance.doctor.host.CGROUP_LIMIT", limit)
    assert "of 1024 MB" in check_memory(Settings()).found
    limit.write_text("max\n")
    assert "of 1024 MB" not in check_memory(Settings()).found


def test_too_few_open_files_are_a_warning() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        found = check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.verdict is WARNING
    assert "LimitNOFILE" in found.fix
