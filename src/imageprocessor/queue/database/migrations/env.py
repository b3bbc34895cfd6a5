"""Alembic's entry point.

Runs the migrations on the connection that :func:`migrate` passes, inside its transaction.
"""

from __future__ import annotations

from alembic import context

from imageprocessor.queue.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
