"""Fill a database with jobs that have ended, and with their events.

`python -m benchmarks.rows URL_OR_FILE --jobs 1000000` adds them to a database. The rows are made by
the database itself: 1 000 000 jobs with 3 000 000 events take a minute or two.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import build_indexes, migrate
from imageprocessor.queue.database.tables import metadata
from imageprocessor.settings import Settings
from imageprocessor.storage.keys import variant_key

USERS = 1000
SIZES = ("thumbnail", "medium", "large", "original")
NO_IMAGE = str(UUID(int=0))

# One job in 25 has failed, and one failed job in ten keeps its upload.
INSERT_JOBS = """
    WITH drawn AS MATERIALIZED (
        SELECT
            number, number % 25 = 0 AS has_failed, {seconds} AS seconds,
            {job_id} AS job_id, {image_id} AS image_id
        FROM {numbers}
    )
    INSERT INTO processing_jobs (
        job_id, image_id, user_id, status, storage_bucket, staging_path, processed_paths,
        processing_metadata, source_sha256, attempt_count, max_retries, error_code, last_error,
        request_id, created_at, started_at, completed_at
    )
    SELECT
        job_id, image_id, 'user-' || (number % {users}),
        CASE WHEN has_failed THEN 'failed' ELSE 'completed' END, 'photos',
        CASE WHEN has_failed AND number % 250 = 0 THEN 'photos/' || job_id END,
        CASE WHEN NOT has_failed THEN replace('{paths}', '{no_image}', image_id) END,
        CASE WHEN has_failed THEN '{context}' ELSE '{result}' END,
        '{sha256}', 1, 3,
        CASE WHEN has_failed THEN 'image_invalid' END,
        CASE WHEN has_failed THEN 'The image is damaged. Send it again.' END,
        '{request_id}', {created_at}, {started_at}, {completed_at}
    FROM drawn
"""
INSERT_EVENTS = """
    INSERT INTO image_upload_events (
        id, event_type, image_id, job_id, user_id, bucket, previous_status, duration_seconds,
        metadata, created_at
    )
    SELECT
        {event_id}, {event_type}, image_id, job_id, user_id, storage_bucket, {previous_status},
        {duration}, '{{"attempt": 1}}', {created_at}
    FROM processing_jobs WHERE request_id = '{request_id}'
"""
EVENTS = (
    ("'upload_initiated'", "created_at", "NULL", "NULL"),
    ("'processing_started'", "started_at", "'pending'", "NULL"),
    ("status", "completed_at", "'processing'", "CASE WHEN status = 'completed' THEN 0.5 END"),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the two databases spell differently; *seconds* are since 1970."""

    numbers: str
    now: str
    random_id: str
    hex: str
    time: str


SQLITE = Dialect(
    numbers="""(
        WITH RECURSIVE counted(number) AS (
            SELECT 0 UNION ALL SELECT number + 1 FROM counted WHERE number < {count} - 1
        ) SELECT number FROM counted
    )""",
    now="unixepoch()",
    random_id="""lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)
        || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
    )""",
    hex="printf('%012x', {number})",
    time="strftime('%Y-%m-%dT%H:%M:%f', {seconds}, 'unixepoch') || '000Z'",
)
POSTGRES = Dialect(
    numbers="generate_series(0, {count} - 1) AS counted(number)",
    now="extract(epoch FROM now())::float",
    random_id="gen_random_uuid()::text",
    hex="lpad(to_hex({number}), 12, '0')",
    time="""to_char(
        to_timestamp({seconds}) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
    )""",
)


def fill(database: Database, job_count: int, *, days: float = 30.0) -> None:
    """Add *job_count* jobs that ended within the last *days*, with three events each.

    The indexes are dropped meanwhile: to build them afterwards is faster.
    """
    with database.write() as connection:
        if connection.dialect.name != "sqlite":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        for table in metadata.sorted_tables:
            for index in table.indexes:
                connection.execute(text(f"DROP INDEX {index.name}"))
        insert_rows(connection, job_count, days)
    build_indexes(database)


def insert_rows(connection: Connection, job_count: int, days: float) -> None:
    dialect = SQLITE if connection.dialect.name == "sqlite" else POSTGRES
    step = days * 86_400 / job_count
    seconds = f"{dialect.now} - 60 - {step} * ({job_count} - number)"
    variant = {"width": 1200, "height": 800, "format": "webp", "size_bytes": 91234}
    generated = {
        "dominant_color": "#3A5F8C",
        "palette": ["#3A5F8C", "#E8D9C4", "#1F2A38"],
        "placeholder": {"thumbhash": 28 * "h", "data_url": 250 * "d"},
        "has_alpha": False,
        "animated": False,
        "original_dimensions": {"width": 4000, "height": 2667},
        "variants": dict.fromkeys(SIZES, variant),
        "warnings": [],
    }
    context = {"context": {"album": 50}}
    request_id = f"filled-{job_count}"
    statement = INSERT_JOBS.format(
        users=USERS,
        paths=json.dumps({size: variant_key("photos", size, NO_IMAGE) for size in SIZES}),
        no_image=NO_IMAGE,
        context=json.dumps(context),
        result=json.dumps({**context, "generated": generated}),
        sha256="5" * 64,
        request_id=request_id,
        created_at=dialect.time.format(seconds="seconds"),
        started_at=dialect.time.format(seconds="seconds + 0.5"),
        completed_at=dialect.time.format(seconds="seconds + 1"),
        seconds=seconds,
        job_id=make_job_id(dialect, seconds),
        image_id=dialect.random_id,
        numbers=dialect.numbers.format(count=job_count),
    )
    driver: Any = connection.connection.driver_connection  # "%" is no placeholder in them
    driver.execute(statement)
    for event_type, created_at, previous_status, duration in EVENTS:
        statement = INSERT_EVENTS.format(
            event_id=dialect.random_id,
            event_type=event_type,
            previous_status=previous_status,
            duration=duration,
            created_at=created_at,
            request_id=request_id,
        )
        driver.execute(statement)


def make_job_id(dialect: Dialect, seconds: str) -> str:
    """Return the SQL of an id that begins with a time, like those of `ids.make_id`."""
    time = dialect.hex.format(number=f"CAST(({seconds}) * 1000 AS bigint)")
    rest = f"substr({dialect.random_id}, 16)"  # without time and version
    return f"substr({time}, 1, 8) || '-' || substr({time}, 9, 4) || '-7' || {rest}"


def main(arguments: list[str]) -> None:
    """Fill the database that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("database", metavar="URL_OR_FILE")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    name = "database_url" if "://" in options.database else "database_path"
    with closing(open_database(Settings.model_validate({name: options.database}))) as database:
        migrate(database)
        fill(database, options.jobs)


if __name__ == "__main__":
    main(sys.argv[1:])
