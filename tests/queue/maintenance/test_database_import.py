from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from imageprocessor.errors import ExpiredCursorError, SettingsError
from imageprocessor.queue.actions import list_actions
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.tables import image_upload_events as events
from imageprocessor.queue.database.tables import job_statistics, maintenance
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.events import feed
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.maintenance import database_import
from imageprocessor.queue.maintenance.database_import import import_database
from imageprocessor.queue.maintenance.progress import ignore
from imageprocessor.queue.pause import pause, read_pause
from imageprocessor.queue.service import open_service
from imageprocessor.queue.statistics import collect_statistics
from imageprocessor.queue.webhook_replay import replay
from imageprocessor.queue.webhooks import add_endpoint, read_endpoint, read_state
from imageprocessor.settings import Settings
from tests.servers import create_database
from tests.uploads import list_all_jobs, submit_to

NOWHERE = "postgresql+psycopg://postgres@127.0.0.1:1/nowhere"


@pytest.fixture
def source(tmp_path: Path) -> Settings:
    """The settings of a SQLite service with two images."""
    settings = Settings(data_dir=tmp_path / "data")
    with open_service(settings) as service:
        for job in [submit_to(service) for _ in range(2)]:
            run_job(service, job.job_id, "worker")
    return settings


def with_database(settings: Settings, url: str) -> Settings:
    return Settings.model_validate({"data_dir": settings.data_dir, "database_url": url})


def list_all(settings: Settings) -> list[Job]:
    with open_service(settings) as service, service.database.read() as connection:
        return list_all_jobs(connection)


def test_all_rows_are_copied_to_postgresql(
    source: Settings, postgres: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_import, "ROWS_PER_BATCH", 4)
    target = with_database(source, create_database(postgres))
    with open_service(source) as service:
        endpoint = add_endpoint(service, "shop", "http://127.0.0.1/", allows_private=True)
        replayed = replay(service, "shop", datetime(2020, 1, 1, tzinfo=UTC), ignore)
        pause(service, "root")
        paused, actions = read_pause(service), list_actions(service, 9)
        assert len(actions) == 2
    reports: list[tuple[str, int]] = []
    counts = import_database(source.database_path, target, lambda *report: reports.append(report))
    assert counts.pop("image_upload_events") == 8
    assert counts.pop("processing_jobs") == 2
    assert counts.pop("upload_rate_limits") == 1
    assert counts.pop("webhook_endpoints") == 1
    assert counts.pop("webhook_deliveries") == replayed.added > 0
    assert set(counts.values()) == {0}
    assert [count for what, count in reports if what == "rows of image_upload_events"] == [4, 8]
    assert list_all(target) == list_all(source)
    with open_service(target) as service:
        assert collect_statistics(service)["storage"]["total_images"] == 2
        assert read_state(service, "shop").waiting == replayed.added
        assert read_endpoint(service, "shop") == endpoint
        assert read_pause(service) == paused
        assert [action["id"] for action in list_actions(service, 9)] == [
            action["id"] for action in actions
        ]
    with pytest.raises(SettingsError, match=r"has rows\. Use an empty database"):
        import_database(source.database_path, target)


def test_new_events_come_after_the_imported_ones(source: Settings, postgres: int) -> None:
    """Feeds read events by transaction, then by number."""
    target = with_database(source, create_database(postgres))
    with closing(open_database(target)) as database:
        migrate(database)
        with database.write() as connection:
            stale = {"id": 1, "position": 9, "figures": "{}"}
            connection.execute(job_statistics.insert().values(stale))
            connection.execute(maintenance.insert().values(task="old", position="far"))
    with closing(open_database(source)) as database:
        first, cursor = feed.read_page(database, None, 1)
        with database.write() as connection:
            pruned = {"task": feed.PRUNED_TASK, "position": str(cursor)}
            connection.execute(maintenance.insert().values(pruned))
    import_database(source.database_path, target)
    with open_service(target) as service:
        submit_to(service)
        every, _ = feed.read_page(service.database, None, 9)
        rest, _ = feed.read_page(service.database, cursor, 9)
        with pytest.raises(ExpiredCursorError):
            feed.read_page(service.database, feed.START, 9)
        with service.database.read() as connection:
            query = select(events.c.transaction_id, events.c.seq, events.c.event_type)
            rows = connection.execute(query.order_by(events.c.transaction_id, events.c.seq)).all()
            figures = connection.scalars(select(job_statistics.c.figures)).all()
            tasks = connection.scalars(select(maintenance.c.task)).all()
    imported, newest = rows[:-1], rows[-1]
    assert [(row.transaction_id, row.seq) for row in imported] == [(0, n) for n in range(1, 7)]
    assert (newest.transaction_id > 0, newest.seq) == (True, 7)
    assert [event.occurrence.event_id for event in first] == [every[0].occurrence.event_id]
    assert rest == every[1:], "a cursor stays valid"
    assert "{}" not in figures, "what was known about the empty database"
    assert "old" not in tasks


def test_database_is_not_copied_onto_itself(source: Settings) -> None:
    with pytest.raises(SettingsError, match="Set DATABASE_URL to the other database"):
        import_database(source.database_path, source)


def test_missing_file_is_reported(source: Settings) -> None:
    absent = source.data_dir / "nowhere.db"
    with pytest.raises(SettingsError, match=f"There is no SQLite database at {absent}"):
        import_database(absent, with_database(source, NOWHERE))


def test_running_service_is_not_copied(source: Settings) -> None:
    target = with_database(source, NOWHERE)
    with (
        presence.announce(workers_directory(source), 1),
        pytest.raises(SettingsError, match=r"Workers are running on .*\. Stop the service first"),
    ):
        import_database(source.database_path, target)
