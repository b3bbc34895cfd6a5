from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imageprocessor.cli.commands.operations import MAX_SHOWN, summarize
from imageprocessor.core.codecs import pillow_version
from imageprocessor.environment import load_settings
from imageprocessor.queue.maintenance.doctor.codecs import FIXED_IN
from imageprocessor.queue.maintenance.fsck import Discrepancy
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.supervisor import Supervisor
from tests.cli.conftest import Run
from tests.servers.processes import wait_for
from tests.uploads import submit_to

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
CHECKS = [
    "database version",
    "durability",
    "tables",
    "writes",
    "image storage",
    "upload storage",
    "storage marker",
    "accepting uploads",
]
CHECKS += [
    "workers",
    "codec versions",
    "codecs",
    "clock",
    "disk",
    "memory",
    "open files",
    "key",
    "settings",
    "webhooks",
]


@pytest.fixture
def service(folder: Path, add_sqlite: Callable[[Path], None]) -> Iterator[Service]:
    """The service that the commands check, with its data in the current folder."""
    add_sqlite(folder / "data")
    with open_service(load_settings({})) as opened:
        yield opened


@contextmanager
def working(service: Service) -> Iterator[None]:
    """Run the service's workers until the end of the context."""
    supervisor = Supervisor(service, 1)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    wait_for(service.dispatcher.count_workers)
    try:
        yield
    finally:
        supervisor.stop()
        thread.join()


def list_names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that `doctor` has no warnings about."""
    values = {
        "JWT_SECRET_KEY": KEY,
        "JWT_REQUIRE_EXP": "true",
        "ALLOWED_BUCKETS": "photos",
        "WORKER_CONCURRENCY": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_doctor_finds_no_fault_in_a_running_service_and_leaves_nothing(
    run: Run, service: Service, sound: None
) -> None:
    with working(service):
        before = list_names(Path("data"))
        ran = run("doctor", "--json")
        assert list_names(Path("data")) == before
    machine_faults = {"disk", "codec versions"} if pillow_version() < FIXED_IN else {"disk"}
    assert {row["name"] for row in ran.json if row["verdict"] != "ok"} <= machine_faults
    assert list(dict.fromkeys(row["name"] for row in ran.json)) == CHECKS
    assert ran.status == 0
    assert KEY not in ran.out + ran.err


def test_doctor_prints_the_fix_for_a_fault(run: Run, service: Service) -> None:
    Path("data/jwt_secret_key").touch(mode=0o644)
    ran = run("doctor")
    assert ran.status == 1
    fix = f"chmod 600 {Path('data/jwt_secret_key').resolve()}"
    (line,) = [line for line in ran.out.splitlines() if fix in line]
    assert line.split()[:2] == ["wrong", "key"]
    assert "644" in line


def test_doctor_on_a_fresh_machine_only_warns_and_creates_nothing(run: Run, folder: Path) -> None:
    ran = run("doctor", "--json")
    assert ran.status == 0
    assert {row["verdict"] for row in ran.json if row["name"] in {"database", "storage"}} == {
        "warning"
    }
    assert list_names(folder) == set()


def test_doctor_warns_of_a_misspelt_name_without_its_value(run: Run) -> None:
    Path(".env").write_text("JWT_SECRT_KEY=hidden-value\n")
    rows = run("doctor", "--json").json
    (row,) = [row for row in rows if "JWT_SECRT_KEY" in row["found"]]
    assert row["verdict"] == "warning"
    assert "JWT_SECRET_KEY" in row["fix"]
    assert "hidden-value" not in str(rows)


def test_doctor_checks_database_integrity_when_asked(run: Run, service: Service) -> None:
    assert "integrity" in [row["name"] for row in run("doctor", "--integrity", "--json").json]


def test_fsck_reports_that_database_and_storage_agree(run: Run, service: Service) -> None:
    ran = run("fsck")
    assert (ran.status, ran.out) == (0, "")
    assert "Database and storage agree." in ran.err
    assert run("fsck", "--json").json == {
        "repair": False,
        "found": {},
        "left": 0,
        "discrepancies": [],
    }


def test_fsck_shows_progress_on_a_terminal_only(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        submit_to(service)
    counts = ("images listed 0", "uploads listed 2", "jobs checked 2")
    assert not any(count in run("fsck").err for count in counts)
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, stderr then is a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    err = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", run("fsck").err)
    assert all(count in re.sub(" +", " ", err) for count in counts)
    assert run("fsck", "--json").err == ""


def test_fsck_only_reports_without_repair(run: Run, service: Service) -> None:
    draft = Path("data/incoming/broken-off")
    draft.write_bytes(b"half")
    os.utime(draft, (time.time() - 86_400,) * 2)
    ran = run("fsck", "--json")
    assert (ran.status, ran.json["found"], ran.json["left"]) == (1, {"abandoned_file": 1}, 1)
    assert ran.json["discrepancies"][0]["where"] == str(draft)
    assert "--repair" in run("fsck").out
    assert draft.exists()
    assert run("fsck", "--repair").status == 0
    assert not draft.exists()


def test_report_counts_all_and_keeps_the_first_ones() -> None:
    found = (
        Discrepancy("abandoned_file", str(n), "", repaired=n > 0) for n in range(MAX_SHOWN + 5)
    )
    report = summarize(found)
    assert (report["found"], report["left"]) == ({"abandoned_file": MAX_SHOWN + 5}, 1)
    assert len(report["discrepancies"]) == MAX_SHOWN
