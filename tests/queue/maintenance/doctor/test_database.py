from __future__ import annotations

import importlib
import platform
import re
import sqlite3
import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from sqlalchemy import create_engine, text

from imageprocessor.queue.database import sqlite
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.maintenance.doctor import database
from imageprocessor.queue.maintenance.doctor.database import check_database, check_sqlite
from imageprocessor.queue.maintenance.doctor.finding import Finding, Verdict
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.queue.conftest import Submit, lock_tables
from tests.servers import find_free_port

OK, WARNING, WRONG = Verdict


def by_name(findings: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}  # type: ignore[attr-defined]


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    """The settings of a service whose tables exist."""
    settings = Settings(data_dir=tmp_path / "data")
    with closing(open_database(settings)) as opened:
        migrate(opened)
    return settings


def with_options(settings: Settings, options: str) -> Settings:
    """Return *settings*, with *options* for each PostgreSQL session."""
    if settings.database_url is None:
        return settings
    url = f"{settings.database_url.get_secret_value()}?options={options}"
    return Settings.model_validate(
        settings.model_dump(include={"data_dir"}) | {"database_url": url}
    )


def test_database_in_use_is_ok(service: Service, submit_image: Submit) -> None:
    submit_image()
    found = by_name(check_database(service.settings, integrity=True))
    assert {found[name].verdict for name in ("database version", "tables", "writes")} == {OK}
    if service.settings.sqlite_path:
        assert (found["durability"].verdict, found["integrity"].verdict) == (OK, OK)


def test_missing_database_is_not_created(tmp_path: Path) -> None:
    (found,) = check_database(Settings(data_dir=tmp_path / "data"))
    assert found.verdict is WARNING
    assert "imageprocessor serve" in found.fix
    assert list(tmp_path.iterdir()) == []


def test_unreachable_server_is_wrong_and_its_password_hidden(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://me:hunter2@127.0.0.1:{find_free_port()}/images"
    (found,) = check_database(Settings.model_validate({"data_dir": tmp_path, "database_url": url}))
    assert found.verdict is WRONG
    assert "hunter2" not in str(found)


def test_file_that_is_not_a_database_is_wrong(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.database_path.write_bytes(b"not a database" * 100)
    (found,) = check_database(settings)
    assert found.verdict is WRONG
    assert "not a database" in found.found


def test_database_on_a_network_file_system_is_wrong(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("27 1 0:9 / / rw - nfs4 host:/x rw")
    monkeypatch.setattr(sqlite, "MOUNT_TABLE", mounts)
    (found,) = check_database(sqlite_settings)
    assert found.verdict is WRONG
    assert "nfs4" in found.found


def test_system_sqlite_is_reported_with_its_version(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)  # as if it were not installed
    assert importlib.import_module("sqlite3") is sqlite.sqlite_module()
    found = by_name(check_database(sqlite_settings))["database version"]
    assert sqlite3.sqlite_version in found.found
    assert found.verdict is (
        WARNING if sqlite.has_wal_reset_bug(sqlite3.sqlite_version_info) else OK
    )


@pytest.mark.parametrize(
    ("machine", "fix"), [("x86_64", "pip install pysqlite3"), ("aarch64", "no wheel for aarch64")]
)
def test_sqlite_with_the_wal_reset_bug_is_a_warning(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch, machine: str, fix: str
) -> None:
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)  # as where there is no wheel
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", "linux")
    found = by_name(check_database(sqlite_settings))["database version"]
    assert found.verdict is WARNING
    assert fix in found.fix


def test_platforms_with_a_wheel_are_those_of_the_dependency() -> None:
    with (Path(__file__).parents[4] / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    (line,) = [line for line in extras["queue"] if line.startswith("pysqlite3")]
    marker = Requirement(line).marker
    assert marker
    required = set()
    for system in ("linux", "darwin", "win32"):
        for machine in ("x86_64", "aarch64", "arm64", "AMD64", "ARM64", "armv7l"):
            where = {"sys_platform": system, "platform_machine": machine}
            if marker.evaluate({**where, "python_version": "3.11"}):
                required.add((system, machine))
    assert required == sqlite.PYSQLITE3_WHEELS


def test_file_without_wal_is_wrong(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    with engine.connect() as connection:
        found = by_name(check_sqlite(connection))["durability"]
    engine.dispose()
    assert found.verdict is WRONG
    assert "journal_mode=delete" in found.found


def test_server_without_fsync_is_wrong(migrated: str) -> None:
    """The tests' server runs with fsync=off."""
    found = by_name(check_database(Settings.model_validate({"database_url": migrated})))[
        "durability"
    ]
    assert found.verdict is WRONG
    assert "fsync=off" in found.found


def test_connections_in_use_are_counted(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"database_url": migrated})
    found = by_name(check_database(settings))["connections"]
    assert found.verdict is OK
    assert re.fullmatch(r"[1-9]\d* of 197 in use", found.found)
    monkeypatch.setattr(database, "LARGE_SHARE", 0)
    assert "PgBouncer" in by_name(check_database(settings))["connections"].fix


def test_old_server_is_wrong(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OLDEST_POSTGRES", 99)
    found = by_name(check_database(Settings.model_validate({"database_url": migrated})))[
        "database version"
    ]
    assert (found.verdict, found.fix) == (WRONG, "Use 99 or newer.")


def test_database_without_tables_is_a_warning(new_settings: Settings) -> None:
    if new_settings.sqlite_path:
        new_settings.sqlite_path.parent.mkdir()
        new_settings.sqlite_path.touch()
    found = by_name(check_database(new_settings))
    assert found["tables"].verdict is WARNING
    assert "imageprocessor db upgrade" in found["tables"].fix
    assert "not tried" in found["writes"].found


@pytest.mark.parametrize(("revision", "verdict"), [("0000", WARNING), ("9999", WRONG)])
def test_tables_of_another_version_are_reported(
    sqlite_settings: Settings, revision: str, verdict: Verdict
) -> None:
    with closing(open_database(sqlite_settings)) as opened, opened.write() as connection:
        connection.execute(
            text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
        )
        connection.execute(
            text("UPDATE schema_compatibility SET oldest_code = :revision"), {"revision": revision}
        )
    assert verdict in [finding.verdict for finding in check_database(sqlite_settings)]


def test_locked_database_is_wrong(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.2)
    with service.database.write() as connection:
        lock_tables(connection)
        found = by_name(check_database(with_options(service.settings, "-c%20lock_timeout=200ms")))[
            "writes"
        ]
    assert found.verdict is WRONG
    assert "lock" in found.found


def test_read_only_server_is_wrong(migrated: str) -> None:
    settings = Settings.model_validate({"database_url": migrated})
    options = "-c%20default_transaction_read_only=on"
    found = by_name(check_database(with_options(settings, options)))["writes"]
    assert found.verdict is WRONG
    assert "read-only transaction" in found.found


def test_damage_is_found_by_the_integrity_check(
    sqlite_settings: Settings, submit_rows: Callable[[], None]
) -> None:
    submit_rows()
    path = sqlite_settings.database_path
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 6000)
    assert "integrity" not in by_name(check_database(sqlite_settings))
    found = [
        finding
        for finding in check_database(sqlite_settings, integrity=True)
        if finding.verdict is WRONG
    ]
    assert found
    assert "restore" in found[0].fix or "malformed" in found[0].found


@pytest.fixture
def submit_rows(sqlite_settings: Settings) -> Callable[[], None]:
    """Fill the audit trail until it spans many pages, and merge the WAL into the file."""

    def fill() -> None:
        with closing(sqlite3.connect(sqlite_settings.database_path)) as connection:
            columns = "(id, event_type, image_id, job_id, metadata, created_at)"
            row = (
                "(lower(hex(randomblob(16))), 'failed', 'image', 'job', hex(zeroblob(500)), 'now')"
            )
            for _ in range(200):
                connection.execute(f"INSERT INTO image_upload_events {columns} VALUES {row}")
            connection.commit()
            connection.execute("PRAGMA journal_mode=DELETE")

    return fill
