"""The three tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "image_upload_events",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("event_type", sa.String(length=32), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_events_job", "image_upload_events", ["job_id", "created_at"], unique=False)
    op.create_index(
        "ix_events_image", "image_upload_events", ["image_id", "created_at"], unique=False
    )
    op.create_table(
        "processing_jobs",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("storage_bucket", sa.String(length=63), nullable=False),
        sa.Column("staging_path", sa.Text(), nullable=True),
        sa.Column("processed_paths", sa.Text(), nullable=True),
        sa.Column("processing_metadata", sa.Text(), nullable=False),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.String(length=27), nullable=True),
        sa.Column("worker_id", sa.String(length=80), nullable=True),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_expires_at", sa.String(length=27), nullable=True),
        sa.Column("error_code", sa.String(length=40), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("started_at", sa.String(length=27), nullable=True),
        sa.Column("completed_at", sa.String(length=27), nullable=True),
        sa.Column("deleted_at", sa.String(length=27), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
        sa.UniqueConstraint("image_id"),
    )
    op.create_index("ix_jobs_completed", "processing_jobs", ["completed_at"], unique=False)
    op.create_index(
        "ix_jobs_due",
        "processing_jobs",
        ["status", "next_attempt_at", "created_at", "deleted_at"],
        unique=False,
    )
    op.create_index("ix_jobs_deleted", "processing_jobs", ["deleted_at"], unique=False)
    op.create_index(
        "ux_jobs_idempotency", "processing_jobs", ["user_id", "idempotency_key"], unique=True
    )
    op.create_table(
        "upload_rate_limits",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("window_start", sa.String(length=27), nullable=False),
        sa.Column("upload_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "window_start"),
    )
