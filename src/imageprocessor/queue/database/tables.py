"""The tables and their indexes. Times (see `clock`), ids and JSON are text on every database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TextClause,
    text,
)

metadata = MetaData()

# A partial index contains only the rows that meet its condition, so its size and its cost do not
# grow with the jobs that have ended. A query uses one only if it contains the same condition, word
# for word: neither database compares conditions with parameters.
IS_WAITING = text("status IN ('pending', 'retrying') AND deleted_at IS NULL")
IS_PROCESSING = text("status = 'processing'")
IS_OPEN = text("status IN ('pending', 'processing', 'retrying') AND deleted_at IS NULL")
HAS_FAILED = text("status = 'failed' AND deleted_at IS NULL")
KEEPS_SOURCE = text("status = 'failed' AND staging_path IS NOT NULL")
IS_VISIBLE = text("deleted_at IS NULL")
IS_DELETED = text("deleted_at IS NOT NULL")
HAS_KEY = text("idempotency_key IS NOT NULL")
IS_DELETION = text("event_type = 'deleted'")
IN_BATCH = text("batch_id IS NOT NULL")
IS_TO_SEND = text("status = 'waiting'")
IS_SENT = text("status != 'waiting'")

# Workers claim no job while there is this row: see `queue.pause`.
NOT_PAUSED = text("NOT EXISTS (SELECT 1 FROM maintenance WHERE task = 'pause')")


def _index(
    name: str, *columns: str, where: TextClause | None = None, unique: bool = False
) -> Index:
    # `schema.build_indexes` passes the condition on. As `postgresql_where`, it would load that
    # dialect in every process on SQLite, too: 50 ms of each start.
    return Index(name, *columns, unique=unique, info={"where": where})


processing_jobs = Table(
    "processing_jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),  # see `ids`
    Column("image_id", String(36), nullable=False, unique=True),  # random: it must not be guessed
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
    Column("batch_id", String(36)),  # of the upload of several images that it was part of
    Column("webhook", String(63)),  # the endpoint that the upload named
    Column("created_at", String(27), nullable=False),
    Column("started_at", String(27)),
    Column("completed_at", String(27)),
    Column("deleted_at", String(27)),
    _index("ix_jobs_waiting", "next_attempt_at", "created_at", where=IS_WAITING),
    _index("ix_jobs_processing", "worker_id", where=IS_PROCESSING),
    _index("ix_jobs_open", "created_at", where=IS_OPEN),
    _index("ix_jobs_failed", "created_at", where=HAS_FAILED),
    _index("ix_jobs_kept_sources", "completed_at", where=KEEPS_SOURCE),
    _index("ix_jobs_being_deleted", "deleted_at", where=IS_DELETED),
    _index("ix_jobs_completed", "completed_at"),
    _index("ix_jobs_batch", "batch_id", where=IN_BATCH),
    _index("ux_jobs_repeated", "user_id", "idempotency_key", where=HAS_KEY, unique=True),
)

image_upload_events = Table(
    "image_upload_events",
    metadata,
    # Numbers the events; on PostgreSQL, null in those from before migration 0004. There, readers
    # order by transaction first, because numbers may be committed in another order.
    Column("seq", BigInteger().with_variant(Integer, "sqlite")),
    Column("transaction_id", BigInteger),  # PostgreSQL only
    Column("id", String(36), primary_key=True),  # see `ids`; on SQLite, `seq` is the primary key
    Column("event_type", String(32), nullable=False),
    Column("image_id", String(36), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
    # In an event of a batch, `image_id` and `job_id` are the id of the batch; in an action of an
    # operator, such as a pause, they are empty.
    # Null in events from before migration 0004, and:
    Column("user_id", String(255)),
    Column("bucket", String(63)),
    Column("previous_status", String(16)),  # of the job, before this event; null for the first
    Column("duration_seconds", Float),  # from claim to completion, of a `completed` event
    _index("ix_events_job", "job_id", "created_at"),
    _index("ix_events_deleted", "image_id", where=IS_DELETION),
    _index("ix_events_user", "user_id", "transaction_id", "seq"),
    _index("ix_events_order", "transaction_id", "seq"),
    _index("ix_events_created", "created_at"),
)

# Where events are sent. `webhook_deliveries` has a row for each event and endpoint.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),  # still used for signing, until it expires
    Column("previous_secret_expires_at", String(27)),
    Column("event_types", Text),  # JSON, a list; null: all
    Column("buckets", Text),  # JSON, a list; null: all
    Column("only_named", Boolean, nullable=False),  # only for uploads that name this endpoint
    Column("allows_private", Boolean, nullable=False),  # private addresses, and HTTP
    Column("from_settings", Boolean, nullable=False),  # WEBHOOK_URL
    Column("created_at", String(27), nullable=False),
    Column("failing_since", String(27)),  # no delivery has succeeded since
    Column("next_probe_at", String(27)),  # while it fails: when one delivery is tried again
    Column("disabled_at", String(27)),  # deliveries then wait until it is enabled
    Column("disabled_reason", Text),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("delivery_id", String(36), primary_key=True),  # see `ids`
    Column("endpoint", String(63), nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("event_type", String(32), nullable=False),  # as in the body, such as image.completed
    Column("image_id", String(36), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("body", Text, nullable=False),  # the bytes that every attempt sends
    Column("status", String(16), nullable=False),  # waiting, delivered or failed
    Column("attempt_count", Integer, nullable=False),
    Column("next_attempt_at", String(27)),  # of a claimed one: when the claim expires
    Column("lease_token", String(36)),
    Column("last_status_code", Integer),  # of the last response
    Column("last_error", Text),
    Column("created_at", String(27), nullable=False),
    Column("attempted_at", String(27)),
    Column("ended_at", String(27)),
    _index("ix_deliveries_due", "endpoint", "next_attempt_at", where=IS_TO_SEND),
    _index("ix_deliveries_waiting", "image_id", where=IS_TO_SEND),
    _index("ix_deliveries_job", "job_id"),
    _index("ix_deliveries_ended", "ended_at", where=IS_SENT),
    _index("ix_deliveries_oldest", "endpoint", "created_at", where=IS_TO_SEND),
    _index("ix_deliveries_history", "endpoint", "status", "ended_at", where=IS_SENT),
)

# An upload of several images at once.
batches = Table(
    "batches",
    metadata,
    Column("batch_id", String(36), primary_key=True),  # see `ids`
    Column("user_id", String(255), nullable=False),
    Column("bucket", String(63), nullable=False),
    Column("webhook", String(63)),
    Column("outcomes", Text, nullable=False),  # JSON: a list, of each file sent
    Column("payload_sha256", String(64), nullable=False),
    Column("idempotency_key", String(255)),
    Column("created_at", String(27), nullable=False),
    Column("completed_at", String(27)),  # when all its jobs had ended
    _index("ux_batches_repeated", "user_id", "idempotency_key", where=HAS_KEY, unique=True),
)

# The tasks that one process at a time does for all hosts; and the pause of the workers.
maintenance = Table(
    "maintenance",
    metadata,
    Column("task", String(40), primary_key=True),
    Column("holder", String(80)),
    Column("lease_expires_at", String(27)),
    Column("due_at", String(27)),  # when the task is to be done next
    Column("position", Text),  # how far a long task has got
)

# One row: a snapshot of the statistics, which includes the events up to `position`.
job_statistics = Table(
    "job_statistics",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),  # see `jobs.figures`
    Column("figures", Text, nullable=False),  # JSON
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
    _index("ix_rate_limits_window", "window_start"),
)
