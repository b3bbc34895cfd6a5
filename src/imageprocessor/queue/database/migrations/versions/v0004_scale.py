"""Tables whose cost does not grow with the number of finished jobs.

The indexes are not made here, but by `schema.build_indexes`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

#: SQLite gives out no number twice, even if the newest rows are deleted, only with AUTOINCREMENT
#: on the primary key, and a new primary key needs a new table.
NEW_EVENTS = """
    CREATE TABLE new_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id VARCHAR(36) NOT NULL,
        event_type VARCHAR(32) NOT NULL,
        image_id VARCHAR(36) NOT NULL,
        job_id VARCHAR(36) NOT NULL,
        metadata TEXT NOT NULL,
        created_at VARCHAR(27) NOT NULL,
        transaction_id BIGINT,
        user_id VARCHAR(255),
        bucket VARCHAR(63),
        previous_status VARCHAR(16),
        duration_seconds FLOAT
    )
"""
COPY_EVENTS = """
    INSERT INTO new_events (id, event_type, image_id, job_id, metadata, created_at)
    SELECT id, event_type, image_id, job_id, metadata, created_at
    FROM image_upload_events ORDER BY created_at, rowid
"""
#: Defaults that are set later than the column apply to new rows only, so no row is rewritten.
POSTGRES_DEFAULTS = (
    "CREATE SEQUENCE image_upload_events_seq AS bigint OWNED BY image_upload_events.seq",
    "ALTER TABLE image_upload_events ALTER seq SET DEFAULT nextval('image_upload_events_seq')",
    """
        ALTER TABLE image_upload_events
        ALTER transaction_id SET DEFAULT pg_current_xact_id()::text::bigint
    """,
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(NEW_EVENTS)
        op.execute(COPY_EVENTS)
        op.drop_table("image_upload_events")
        op.rename_table("new_events", "image_upload_events")
    else:
        for column in (
            sa.Column("seq", sa.BigInteger()),
            sa.Column("transaction_id", sa.BigInteger()),
            sa.Column("user_id", sa.String(length=255)),
            sa.Column("bucket", sa.String(length=63)),
            sa.Column("previous_status", sa.String(length=16)),
            sa.Column("duration_seconds", sa.Float()),
        ):
            op.add_column("image_upload_events", column)
        for statement in POSTGRES_DEFAULTS:
            op.execute(statement)
    op.create_table(
        "maintenance",
        sa.Column("task", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(length=80)),
        sa.Column("lease_expires_at", sa.String(length=27)),
        sa.Column("due_at", sa.String(length=27)),
        sa.Column("position", sa.Text()),
        sa.PrimaryKeyConstraint("task"),
    )
    op.create_table(
        "job_statistics",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
