"""Rules for who may see and change an image, and who may read the metrics."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from imageprocessor.queue.jobs.batch_store import Batch
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings


@dataclass(frozen=True, slots=True)
class Caller:
    """The author of a request: a user, an admin, or an anonymous client."""

    user_id: str | None = None
    admin: bool = False  #: may do everything
    reads_all: bool = False  #: may see everything

    def owns(self, uploaded: Job | Batch) -> bool:
        """Return whether the caller owns the job's image, or the batch, or is an admin."""
        return self.admin or self.user_id == uploaded.user_id


ANYONE = Caller()
OPERATOR = Caller(admin=True)  #: anyone with access to the machine, and so to the CLI


def may_read(service: Service, caller: Caller, job: Job) -> bool:
    """Return whether *caller* may see the job and its image."""
    return service.settings.public_reads or caller.reads_all or caller.owns(job)


def may_scrape(settings: Settings, authorization: str) -> bool:
    """Return whether an Authorization header has METRICS_TOKEN, or none is set."""
    if settings.metrics_token is None:
        return True
    scheme, _, token = authorization.partition(" ")
    expected = settings.metrics_token.get_secret_value()
    is_right = hmac.compare_digest(token.encode(), expected.encode())
    return is_right and scheme.lower() == "bearer"
