"""Tables for webhooks and for uploads of several images at once.

The indexes are made by `schema.build_indexes`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("processing_jobs", sa.Column("batch_id", sa.String(length=36)))
    op.add_column("processing_jobs", sa.Column("webhook", sa.String(length=63)))
    op.create_table(
        "webhook_endpoints",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text()),
        sa.Column("previous_secret_expires_at", sa.String(length=27)),
        sa.Column("event_types", sa.Text()),
        sa.Column("buckets", sa.Text()),
        sa.Column("only_named", sa.Boolean(), nullable=False),
        sa.Column("allows_private", sa.Boolean(), nullable=False),
        sa.Column("from_settings", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("failing_since", sa.String(length=27)),
        sa.Column("next_probe_at", sa.String(length=27)),
        sa.Column("disabled_at", sa.String(length=27)),
        sa.Column("disabled_reason", sa.Text()),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("delivery_id", sa.String(length=36), nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("event_type", sa.String(length=32), nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.String(length=27)),
        sa.Column("lease_token", sa.String(length=36)),
        sa.Column("last_status_code", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("attempted_at", sa.String(length=27)),
        sa.Column("ended_at", sa.String(length=27)),
        sa.PrimaryKeyConstraint("delivery_id"),
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("webhook", sa.String(length=63)),
        sa.Column("outcomes", sa.Text(), nullable=False),
        sa.Column("payload_sha256", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255)),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("completed_at", sa.String(length=27)),
        sa.PrimaryKeyConstraint("batch_id"),
    )
