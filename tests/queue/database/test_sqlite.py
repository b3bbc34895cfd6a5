from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from imageprocessor.errors import (
    DatabaseUnavailableError,
    DatabaseUnusableError,
    SettingsError,
)
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.sqlite import (
    BUSY_TIMEOUT_SECONDS,
    SqliteConnections,
    find_damage,
    find_file_system,
    sqlite_module,
)
from imageprocessor.settings import Settings
from tests.queue.database.conftest import insert_window


def test_waits_for_threads_and_processes_share_one_timeout(
    tmp_path: Path,
) -> None:
    database = open_database(Settings(data_dir=tmp_path))
    migrate(database)
    assert isinstance(database.connections, SqliteConnections)
    with (
        closing(sqlite_module().connect(tmp_path / "processor.db")) as other,
        ThreadPoolExecutor() as pool,
    ):
        with database.connections.write_connection.lock:
            started = time.monotonic()
            waiting = pool.submit(insert_window, database)
            time.sleep(BUSY_TIMEOUT_SECONDS - 2)
            other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError, match="locked"):
            waiting.result()
        assert time.monotonic() - started < BUSY_TIMEOUT_SECONDS + 1
    insert_window(database)
    database.close()


def test_bundled_sqlite_has_no_wal_reset_bug() -> None:
    assert sqlite_module().sqlite_version_info >= (3, 51, 3)


def test_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is no database" * 100)
    database = open_database(Settings(database_path=path))
    with pytest.raises(DatabaseUnusableError, match=rf"{path}.*not a database.*restore"):
        migrate(database)
    database.close()


MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /srv rw,relatime shared:5 master:1 - nfs4 files:/export rw,vers=4.2
31 30 0:41 / /srv/fast rw - xfs /dev/vdb rw
32 27 0:42 / /mnt/with\040space rw - fuse.sshfs me@far:/ rw
33 27 0:43 / /over rw - cifs //far/share rw
34 33 0:44 / /over rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/images/processor.db", "ext4"),
        ("/srv/images/processor.db", "nfs4"),
        ("/srv/fast/processor.db", "xfs"),
        ("/srvother/processor.db", "ext4"),
        ("/mnt/with space/a.db", "fuse.sshfs"),
        ("/over/a.db", "tmpfs"),
    ],
)
def test_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert find_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.sshfs", "lustre", "afs"]
)
def test_sqlite_on_a_network_file_system_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"30 27 0:40 / {tmp_path} rw - {kind} far:/export rw\n"
    )
    monkeypatch.setattr("imageprocessor.queue.database.sqlite.MOUNT_TABLE", table)
    with pytest.raises(
        SettingsError,
        match=r"several hosts cannot share a SQLite file. Set DATABASE_URL=postgresql",
    ):
        open_database(Settings(data_dir=tmp_path))
    with TemporaryDirectory(dir="/tmp") as elsewhere:
        open_database(Settings(data_dir=tmp_path, database_path=Path(elsewhere, "a.db"))).close()


def test_damage_is_found_in_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, whatever its name" * 100)
    assert "not a database" in find_damage(path)


def test_without_a_mount_table_any_file_system_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageprocessor.queue.database.sqlite.MOUNT_TABLE", tmp_path / "none")
    database = open_database(Settings(data_dir=tmp_path))
    assert migrate(database) is None
    database.close()
