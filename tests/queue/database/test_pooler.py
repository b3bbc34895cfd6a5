"""Everything that a session would keep must hold behind PgBouncer in transaction mode, too."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from imageprocessor.errors import DatabaseUnavailableError, DatabaseUnusableError, SettingsError
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.postgres import TIMEOUTS, is_pooled
from imageprocessor.queue.database.schema import HEAD, migrate
from imageprocessor.queue.maintenance.doctor.database import check_connections
from imageprocessor.settings import Settings
from tests.queue.conftest import empty
from tests.queue.database.conftest import count_windows, insert_window, open_url
from tests.servers import Server, create_database
from tests.servers.pgbouncer import PASSWORD, POOL_SIZE, name_pooled, run_pgbouncer

pytestmark = pytest.mark.xdist_group("pgbouncer")  # start it once, not in every process
MORE_THAN_PREPARED = 8  #: psycopg prepares a statement that it ran five times


@pytest.fixture(scope="module")
def pgbouncer(tmp_path_factory: pytest.TempPathFactory, postgres: int) -> Iterator[Server]:
    with run_pgbouncer(tmp_path_factory.mktemp("pgbouncer"), postgres) as server:
        yield server


@pytest.fixture
def url(migrated: str, pgbouncer: Server) -> str:
    """The URL of the database `migrated` through PgBouncer."""
    return name_pooled(migrated, pgbouncer.port)


@pytest.fixture
def database(migrated: str, url: str) -> Iterator[Database]:
    empty(migrated)
    with closing(open_url(url)) as opened:
        yield opened


def show_timeouts(connection: Connection) -> dict[str, object]:
    return {name: connection.scalar(text(f"SHOW {name}")) for name in TIMEOUTS}


def test_pooler_is_recognized(database: Database, migrated: str) -> None:
    with closing(open_url(migrated)) as direct:
        for opened, expected in ((database, True), (direct, False)):
            with opened.read() as reader:
                assert is_pooled(reader) is expected


def test_every_transaction_has_the_timeouts_and_leaves_none(database: Database, url: str) -> None:
    for use in (database.read, database.write):
        with use() as connection:
            assert show_timeouts(connection) == TIMEOUTS
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        shown = [other.execute(f"SHOW {name}".encode()).fetchone() for name in TIMEOUTS]
    assert shown == [("0",)] * len(TIMEOUTS)


def test_reader_sees_commits_made_after_it_started(database: Database) -> None:
    with database.read() as reader:
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 0
        insert_window(database)
        assert reader.scalar(text("SELECT count(*) FROM upload_rate_limits")) == 1


def test_failed_transaction_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        insert_window(database, then=lambda: 1 / 0)
    assert count_windows(database) == 0


def test_repeated_statements_run_on_any_connection(database: Database) -> None:
    def write(number: int) -> None:
        for repetition in range(MORE_THAN_PREPARED):
            values = {"user": f"{number}-{repetition}"}
            with database.write() as writer:
                writer.execute(text("INSERT INTO upload_rate_limits VALUES (:user, '', 1)"), values)

    writers = 2 * POOL_SIZE
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    assert count_windows(database) == writers * MORE_THAN_PREPARED


def test_restarted_pooler_is_used_again(database: Database, pgbouncer: Server) -> None:
    insert_window(database)
    pgbouncer.kill()
    with pytest.raises(DatabaseUnavailableError):
        count_windows(database)
    pgbouncer.restart()
    assert count_windows(database) == 1


def test_doctor_asks_for_a_direct_address(database: Database, migrated: str, url: str) -> None:
    pooled = Settings.model_validate({"database_url": url})
    both = Settings.model_validate({"database_url": url, "database_direct_url": migrated})
    with database.read() as reader:
        asking, counting = check_connections(reader, pooled)
        (only_counting,) = check_connections(reader, both)
    assert "Set DATABASE_DIRECT_URL" in asking.fix
    for finding in (counting, only_counting):
        assert finding.found.endswith("in use, through a pooler")


def test_refusal_by_the_pooler_says_what_to_correct(
    tmp_path: Path, migrated: str, postgres: int
) -> None:
    listed = {"* = host": f"{migrated.rpartition('/')[2]} = host"}
    with run_pgbouncer(tmp_path, postgres, listed) as server:
        url = name_pooled(migrated, server.port)
        for right, wrong in ((PASSWORD, "guessed"), ("/test_", "/absent_")):
            with pytest.raises(DatabaseUnusableError, match="Correct user, password and database"):
                count_windows(open_url(url.replace(right, wrong)))


def test_tables_are_upgraded_on_a_direct_connection(postgres: int, pgbouncer: Server) -> None:
    url = create_database(postgres)
    pooled = name_pooled(url, pgbouncer.port)
    with (
        closing(open_url(pooled)) as without,
        pytest.raises(SettingsError, match="Set DATABASE_DIRECT_URL"),
    ):
        migrate(without)
    settings = Settings.model_validate({"database_url": pooled, "database_direct_url": url})
    with closing(open_database(settings)) as database:
        assert migrate(database) is None
        assert migrate(database) == HEAD
    with closing(open_url(pooled)) as upgraded:  # nothing to do: needs no direct connection
        assert migrate(upgraded) == HEAD
