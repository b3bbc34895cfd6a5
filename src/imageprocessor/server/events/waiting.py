"""Requests that are answered as soon as their jobs have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from fastapi import Request
from starlette.types import Receive

from imageprocessor.errors import DatabaseUnavailableError, JobNotFoundError
from imageprocessor.queue.access import Caller
from imageprocessor.queue.batches import BatchProgress, read_batch
from imageprocessor.queue.events import feed
from imageprocessor.queue.events.feed import Event
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import OPEN_STATUSES, Job
from imageprocessor.queue.service import Service
from imageprocessor.server.events.poller import EventPoller, Topic, Watcher, topic_of_job
from imageprocessor.server.events.preferences import read_wait
from imageprocessor.server.protocol import max_connections
from imageprocessor.server.threads import run_read


class Wait:
    """A request that waits until all its jobs have ended; a watcher of the poller."""

    def __init__(self, job_ids: Collection[str]) -> None:
        self.ended = asyncio.Event()
        self._job_ids = frozenset(job_ids)
        self._left = set(job_ids)

    @property
    def topics(self) -> Iterable[Topic]:
        return map(topic_of_job, self._job_ids)

    def receive(self, event: Event) -> None:
        if event.is_final:
            self.note_ended(event.job_id)

    def note_ended(self, job_id: str) -> None:
        self._left.discard(job_id)
        if not self._left:
            self.stop()

    def stop(self) -> None:
        self.ended.set()


async def read_job_waiting(
    request: Request, read: Callable[[Service, str, Caller], Job], name: str, caller: Caller
) -> Job:
    """Return a job; if it is open and the request may wait, once it has ended or the time is over.

    *read* finds the job by *name*: ``read_job`` by its id, ``find_image`` by that of its image.

    Raises:
        InvalidWaitError: See :func:`preferences.read_wait`.
        ImageProcessorError: Any error raised by *read*.
    """
    service: Service = request.state.service
    seconds = read_wait(request)
    job = await run_read(service, read, name, caller)
    if seconds and job.status in OPEN_STATUSES:
        await wait_until_final(request, [job.job_id], seconds)
        job = await run_read(service, read, name, caller)
    return job


async def read_batch_waiting(request: Request, batch_id: str, caller: Caller) -> BatchProgress:
    """Return a batch; if the request may wait, once it is completed or the time is over.

    Raises:
        InvalidWaitError: See :func:`preferences.read_wait`.
        InvalidIdError, BatchNotFoundError: See :func:`batches.read_batch`.
    """
    service: Service = request.state.service
    seconds = read_wait(request)
    progress = await run_read(service, read_batch, batch_id, caller)
    if seconds and progress.batch.completed_at is None:
        await wait_until_final(request, progress.jobs, seconds)
        progress = await run_read(service, read_batch, batch_id, caller)
    return progress


async def wait_for_upload(request: Request, accepted: Job, seconds: int) -> Job | None:
    """Return the job of an upload once it has ended; None if the time is over.

    Also None if the image is deleted or the database does not answer: the upload was accepted.
    """
    owner = Caller(accepted.user_id)
    try:
        if accepted.status in OPEN_STATUSES:
            await wait_until_final(request, [accepted.job_id], seconds)
        job = await run_read(request.state.service, read_job, accepted.job_id, owner)
    except (JobNotFoundError, DatabaseUnavailableError):
        return None
    return None if job.status in OPEN_STATUSES else job


async def wait_until_final(request: Request, job_ids: Collection[str], seconds: float) -> None:
    """Return when all jobs have ended or been deleted, or after *seconds*.

    Return at once if the client disconnects, the service stops, or half of this process's
    connections wait: clients must not be able to occupy all of them. Meanwhile, this needs no
    thread and no connection to the database.
    """
    service: Service = request.state.service
    poller: EventPoller = request.state.event_poller
    if poller.is_stopped or poller.wait_count >= max_connections() // 2:
        return
    wait = Wait(job_ids)
    poller.wait_count += 1
    watching = asyncio.create_task(stop_on_disconnect(request.receive, wait))
    try:
        async with poller.watch(wait):
            # They may have ended before the poller knew of this request.
            still_open = await run_read(service, _read_open, job_ids)
            for job_id in set(job_ids) - still_open:
                wait.note_ended(job_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wait.ended.wait()
    finally:
        watching.cancel()
        poller.wait_count -= 1


async def stop_on_disconnect(receive: Receive, watcher: Watcher) -> None:
    """Stop *watcher* when the client disconnects. The body of the request must have been read."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            watcher.stop()
            return


def _read_open(service: Service, job_ids: Collection[str]) -> set[str]:
    return feed.read_open_jobs(service.database, job_ids)
