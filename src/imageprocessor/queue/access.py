"""Who may see and change whose images."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a user, an admin, or nobody in particular."""

    user_id: str | None = None
    admin: bool = False

    def owns(self, job: Job) -> bool:
        """Return whether the image is the caller's own, or the caller an admin."""
        return self.admin or self.user_id == job.user_id


ANYONE = Caller()
OPERATOR = Caller(admin=True)  #: who holds the machine, and so the CLI


def may_read(service: Service, caller: Caller, job: Job) -> bool:
    """Return whether *caller* may see the job and its image."""
    return service.settings.public_reads or caller.owns(job)
