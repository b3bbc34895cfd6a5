"""Who may do what with whose images."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.queue.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a user, an admin, or nobody in particular."""

    user_id: str | None = None
    admin: bool = False

    def owns(self, job: Job) -> bool:
        """Tell whether the image is the caller's own, or the caller an admin."""
        return self.admin or self.user_id == job.user_id


ANYONE = Caller()
OPERATOR = Caller(admin=True)  #: who holds the machine, and so the CLI
