from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text, update

from imageprocessor.errors import SettingsError
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import HEAD, migrate
from imageprocessor.queue.database.tables import metadata, schema_compatibility
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.queue.conftest import lock_tables

MIGRATE = """
import sys
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.settings import Settings
data_dir, database_url = sys.argv[1:]
settings = Settings.model_validate({"data_dir": data_dir, "database_url": database_url or None})
database = open_database(settings)
print("ready", flush=True)
sys.stdin.readline()
print(migrate(database))
database.close()
"""


@pytest.fixture
def database(new_settings: Settings) -> Iterator[Database]:
    opened = open_database(new_settings)
    yield opened
    opened.close()


def test_migrations_create_the_tables_of_the_code(database: Database) -> None:
    assert migrate(database) is None
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert migrate(database) == HEAD


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "imageprocessor.queue.database:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_concurrent_processes_migrate_once(database: Database, new_settings: Settings) -> None:
    url = new_settings.database_url.get_secret_value() if new_settings.database_url else ""
    command = [sys.executable, "-W", "error", "-c", MIGRATE, str(new_settings.data_dir), url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 4
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(process.communicate(), process.returncode) for process in processes]
    assert [(errors, status) for (_, errors), status in ends] == [("", 0)] * 4
    assert sorted(output.strip() for (output, _), _ in ends) == [HEAD] * 3 + ["None"]
    with database.read() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == [HEAD]


def test_migrated_database_needs_neither_lock_nor_alembic(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "alembic"]:
        monkeypatch.setitem(sys.modules, name, None)
    with service.database.write() as connection:
        lock_tables(connection)
        assert migrate(service.database) == HEAD


def test_every_database_has_its_own_lasting_identity(
    database: Database, new_settings: Settings, tmp_path: Path
) -> None:
    migrate(database)
    identity = database.identity()
    with closing(open_database(new_settings)) as again:
        migrate(again)
        assert again.identity() == identity
        is_file = new_settings.sqlite_path is not None
        assert again.file_identity() == (identity if is_file else "")  # hosts share a server
    with closing(open_database(Settings(data_dir=tmp_path / "other"))) as other:
        migrate(other)
        assert other.identity() != identity


@pytest.mark.parametrize(
    "table", ["wp_posts (id integer)", "alembic_version (version_num varchar(32))"]
)
def test_database_of_another_program_is_refused_and_left_alone(
    database: Database, new_settings: Settings, table: str
) -> None:
    name = table.partition(" ")[0]
    with database.write() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {table}")
    if name == "wp_posts" and new_settings.sqlite_path is None:
        assert migrate(database) is None, "a server's database may have other tables"
        return
    place = new_settings.sqlite_path or "DATABASE_URL"
    with pytest.raises(SettingsError, match=rf"{place} belongs to another program.*{name}"):
        migrate(database)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == [name]


def mark_newer(database: Database, oldest_code: str) -> None:
    """Give *database* the marks of a newer version, on which *oldest_code* may run."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(update(schema_compatibility).values(oldest_code=oldest_code))


def test_newer_database_is_used_if_it_permits_this_version(database: Database) -> None:
    migrate(database)
    mark_newer(database, HEAD)
    assert migrate(database) == "9999", "nothing was migrated back"


def test_newer_database_is_refused_with_the_remedy(database: Database) -> None:
    migrate(database)
    mark_newer(database, "9998")
    with pytest.raises(
        SettingsError, match=r"newer version .*\(revision 9999.*Install the newer version"
    ):
        migrate(database)
