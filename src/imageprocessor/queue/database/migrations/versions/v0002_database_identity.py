"""The identity of the database, by which its storage and its broker recognize it."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    table = op.create_table(
        "database_identity",
        sa.Column("identity", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("identity"),
    )
    op.bulk_insert(table, [{"identity": uuid.uuid4().hex}])
