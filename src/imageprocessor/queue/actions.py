"""The actions in the audit trail that concern no job, such as a pause or the replay of webhooks."""

from __future__ import annotations

from typing import Any

from imageprocessor.queue.jobs import outbox
from imageprocessor.queue.service import Service


def list_actions(service: Service, limit: int, before: str | None = None) -> list[dict[str, Any]]:
    """Return the newest *limit* actions, newest first; or only those before a time.

    *before* is the ``created_at`` of the last action of the page before. ``metadata`` has what was
    done, and as ``by`` the admin who did it, or None for an operator on the machine.
    """
    with service.database.read() as connection:
        return outbox.list_actions(connection, limit, before)
