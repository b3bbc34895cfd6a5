"""Rules for who may see and change an image."""

from __future__ import annotations

from dataclasses import dataclass

from imageprocessor.queue.jobs.batch_store import Batch
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service


@dataclass(frozen=True, slots=True)
class Caller:
    """The author of a request: a user, an admin, or an anonymous client."""

    user_id: str | None = None
    admin: bool = False

    def owns(self, uploaded: Job | Batch) -> bool:
        """Return whether the caller owns the job's image, or the batch, or is an admin."""
        return self.admin or self.user_id == uploaded.user_id


ANYONE = Caller()
OPERATOR = Caller(admin=True)  #: anyone with access to the machine, and so to the CLI


def may_read(service: Service, caller: Caller, job: Job) -> bool:
    """Return whether *caller* may see the job and its image."""
    return service.settings.public_reads or caller.owns(job)
