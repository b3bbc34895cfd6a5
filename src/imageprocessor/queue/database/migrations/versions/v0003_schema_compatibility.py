"""The oldest code that may run on the database: see `schema.OLDEST_CODE`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    table = op.create_table(
        "schema_compatibility",
        sa.Column("oldest_code", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("oldest_code"),
    )
    op.bulk_insert(table, [{"oldest_code": "0002"}])
