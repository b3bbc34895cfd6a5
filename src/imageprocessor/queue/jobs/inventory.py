"""SQL that compares stored objects with rows: who owns a key, and which keys must exist."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, RowMapping, and_, bindparam, func, or_, select

from imageprocessor.queue.database.connections import Database
from imageprocessor.queue.database.tables import processing_jobs as jobs
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.storage.keys import job_id_of

ROWS_PER_QUERY = 500

#: jobs whose variants must exist
READABLE = (jobs.c.status == JobStatus.COMPLETED, jobs.c.deleted_at.is_(None))
#: Excludes jobs that failed for good: nothing will create, read or delete their variants again.
MAY_HAVE_VARIANTS = or_(jobs.c.status != JobStatus.FAILED, jobs.c.staging_path.is_not(None))

# Built once, because they run for every few hundred stored objects: a statement that contains its
# keys becomes cyclic garbage, so a run over many objects would grow until that is collected.
FIND_STAGED = select(jobs.c.staging_path).where(
    jobs.c.job_id.in_(bindparam("job_ids", expanding=True))
)
FIND_OWNERS = select(jobs.c.image_id, jobs.c.status, jobs.c.processed_paths).where(
    jobs.c.image_id.in_(bindparam("image_ids", expanding=True)), MAY_HAVE_VARIANTS
)


def has_images(connection: Connection, bucket: str | None = None) -> bool:
    """Return whether any image can be read, in *bucket* if given."""
    query = select(jobs.c.job_id).where(*READABLE).limit(1)
    if bucket is not None:
        query = query.where(jobs.c.storage_bucket == bucket)
    return connection.scalar(query) is not None


def list_staged(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those *keys* that a job names as its upload."""
    job_ids = [job_id_of(key) for key in keys]
    staged = set(connection.scalars(FIND_STAGED, {"job_ids": job_ids}))
    return staged.intersection(keys)


def list_owned(connection: Connection, owners: Mapping[str, str]) -> set[str]:
    """Return the variant keys that belong to a row; *owners* maps each key to its image's id.

    A completed image owns the variants that it lists. An image that is unfinished, or may be
    retried, owns every variant named after it. One that failed for good owns none: what is left
    was stored by its attempts and not deleted because of a crash.
    """
    unfinished, named = set(), set()
    rows = connection.execute(FIND_OWNERS, {"image_ids": list(owners.values())})
    for image_id, status, paths in rows:
        if status == JobStatus.COMPLETED:
            named.update(json.loads(paths).values())
        else:
            unfinished.add(image_id)
    return {key for key, image_id in owners.items() if key in named or image_id in unfinished}


def iterate_jobs(database: Database) -> Iterator[Job]:
    """Yield all jobs that exist now."""
    for row in _iterate_rows(database, *jobs.c):
        yield Job.from_row(dict(row))


def iterate_variants(database: Database) -> Iterator[Sequence[str]]:
    """Yield the storage keys of each job: those of its variants if it can be read, else none.

    The database may be of an older version, too.
    """
    columns = jobs.c.status, jobs.c.deleted_at, jobs.c.processed_paths
    for row in _iterate_rows(database, jobs.c.job_id, *columns):
        is_readable = row["status"] == JobStatus.COMPLETED and row["deleted_at"] is None
        yield list(json.loads(row["processed_paths"]).values()) if is_readable else []


def _iterate_rows(database: Database, *columns: Column[Any]) -> Iterator[RowMapping]:
    """Yield *columns* of all jobs that exist now, reading ROWS_PER_QUERY at a time.

    No condition leaves jobs out, so that each query reads only so many rows.
    """
    is_next = and_(jobs.c.job_id > bindparam("last_id"), jobs.c.job_id <= bindparam("end"))
    query = select(*columns).where(is_next).order_by(jobs.c.job_id).limit(ROWS_PER_QUERY)
    with database.read() as connection:
        end = connection.scalar(select(func.max(jobs.c.job_id)))
    last_id = ""
    while end:
        with database.read() as connection:
            rows = connection.execute(query, {"last_id": last_id, "end": end}).mappings().all()
        if not rows:
            return
        yield from rows
        last_id = rows[-1]["job_id"]
