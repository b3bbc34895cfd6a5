"""The tables. Times (see `clock`), ids and JSON are text on every database."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

metadata = MetaData()

processing_jobs = Table(
    "processing_jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("image_id", String(36), nullable=False, unique=True),
    Column("user_id", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("storage_bucket", String(63), nullable=False),
    Column("staging_path", Text),  # storage key of the upload; null once it is gone
    Column("processed_paths", Text),  # JSON: {size: storage key}
    # JSON: {"context": what the client sent, "generated": the result}
    Column("processing_metadata", Text, nullable=False),
    Column("source_sha256", String(64), nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("max_retries", Integer, nullable=False),
    Column("next_attempt_at", String(27)),
    Column("worker_id", String(80)),
    Column("lease_token", String(36)),
    Column("lease_expires_at", String(27)),
    Column("error_code", String(40)),
    Column("last_error", Text),
    Column("request_id", String(64)),
    Column("idempotency_key", String(255)),
    Column("created_at", String(27), nullable=False),
    Column("started_at", String(27)),
    Column("completed_at", String(27)),
    Column("deleted_at", String(27)),
    Index("ix_jobs_due", "status", "next_attempt_at", "created_at", "deleted_at"),
    Index("ix_jobs_deleted", "deleted_at"),
    Index("ix_jobs_completed", "completed_at"),
    Index("ux_jobs_idempotency", "user_id", "idempotency_key", unique=True),
)

image_upload_events = Table(
    "image_upload_events",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("event_type", String(32), nullable=False),
    Column("image_id", String(36), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
    Index("ix_events_job", "job_id", "created_at"),
    Index("ix_events_image", "image_id", "created_at"),
)

# One random row, written with the table; copies of the database keep it.
database_identity = Table(
    "database_identity", metadata, Column("identity", String(32), primary_key=True)
)

# One row: the oldest code that may use the tables, by its newest migration (`schema.OLDEST_CODE`).
schema_compatibility = Table(
    "schema_compatibility", metadata, Column("oldest_code", String(8), primary_key=True)
)

upload_rate_limits = Table(
    "upload_rate_limits",
    metadata,
    Column("user_id", String(255), nullable=False),
    Column("window_start", String(27), nullable=False),
    Column("upload_count", Integer, nullable=False),
    PrimaryKeyConstraint("user_id", "window_start"),
)
