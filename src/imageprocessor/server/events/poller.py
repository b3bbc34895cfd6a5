"""One poller in each process, shared by all requests that wait for events.

It runs only while there are such requests, which need no thread and no connection meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Protocol

import structlog
from starlette.concurrency import run_in_threadpool

from imageprocessor.queue.events import feed
from imageprocessor.queue.events.feed import Event, Position
from imageprocessor.queue.service import Service
from imageprocessor.server.threads import run_read

POLL_SECONDS = 0.02
RETRY_SECONDS = 1.0  #: after an error
#: How often the waiting jobs themselves are read. On PostgreSQL, a long transaction anywhere holds
#: back the events, but not the jobs.
RECHECK_SECONDS = 1.0
EVENTS_PER_READ = 200

#: What a watcher is told of: the events of a user, those of a job, or all.
Topic = tuple[str, str]
ALL: Topic = ("all", "")

log = structlog.get_logger(__name__)


def topic_of_user(user_id: str) -> Topic:
    """Return the topic of a user's events."""
    return ("user", user_id)


def topic_of_job(job_id: str) -> Topic:
    """Return the topic of a job's events."""
    return ("job", job_id)


class Watcher(Protocol):
    """A request that waits for events. None of its methods may block."""

    @property
    def topics(self) -> Iterable[Topic]: ...

    def receive(self, event: Event) -> None:
        """Take note of an event of one of the topics."""

    def note_ended(self, job_id: str) -> None:
        """Take note that a job has ended, or was deleted, whether or not an event says so."""

    def stop(self) -> None:
        """End the request at once."""


class EventPoller:
    """Reads new events, each once, and passes them to the watchers that they concern."""

    def __init__(self, service: Service) -> None:
        self.is_stopped = False
        #: how many requests wait or stream, as they count themselves
        self.wait_count = self.stream_count = 0
        self._service = service
        self._watchers: dict[Topic, set[Watcher]] = {}
        self._position = feed.START
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self, watcher: Watcher) -> AsyncIterator[None]:
        """Pass every event from the beginning of the context on to *watcher*.

        Raises:
            DatabaseUnavailableError: The database cannot be read.
        """
        topics = list(watcher.topics)
        for topic in topics:
            self._watchers.setdefault(topic, set()).add(watcher)
        try:
            await self._start()
            if self.is_stopped:
                watcher.stop()
            yield
        finally:
            for topic in topics:
                self._watchers[topic].discard(watcher)
                if not self._watchers[topic]:
                    del self._watchers[topic]

    def stop(self) -> None:
        """End all requests that wait, and those to come."""
        self.is_stopped = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.stop()

    async def _start(self) -> None:
        if self._task is not None:
            return
        position = await run_read(self._service, _find_newest)
        if self._task is None:  # another request may have started it meanwhile
            self._position = position
            # In a context of its own: else its log lines would have this request's id.
            self._task = asyncio.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        recheck_at = loop.time() + RECHECK_SECONDS
        while self._watchers:
            pause = POLL_SECONDS
            try:
                await self._poll()
                if loop.time() >= recheck_at:
                    await self._recheck()
                    recheck_at = loop.time() + RECHECK_SECONDS
            except Exception:  # a boundary: those who wait need the next poll
                log.exception("events_not_read")
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)
        self._task = None

    async def _poll(self) -> None:
        """Pass on the events since the last poll; if there are none, this costs 30 µs on SQLite."""
        newest = await run_read(self._service, _find_newest)
        while self._position < newest:
            events = await run_in_threadpool(
                feed.fetch_events, self._service.database, self._position, EVENTS_PER_READ
            )
            for event in events:
                self._pass_on(event)
            if len(events) < EVENTS_PER_READ:
                self._position = max([newest, *(event.position for event in events)])
            else:
                self._position = events[-1].position

    def _pass_on(self, event: Event) -> None:
        topics = [ALL, topic_of_job(event.job_id)]
        if event.user_id is not None:
            topics.append(topic_of_user(event.user_id))
        for topic in topics:
            for watcher in self._watchers.get(topic, ()):
                watcher.receive(event)

    async def _recheck(self) -> None:
        """Find the jobs that have ended by their rows."""
        job_ids = [name for kind, name in self._watchers if kind == "job"]
        if not job_ids:
            return
        still_open = await run_in_threadpool(feed.read_open_jobs, self._service.database, job_ids)
        for job_id in job_ids:
            if job_id not in still_open:
                for watcher in self._watchers.get(topic_of_job(job_id), ()):
                    watcher.note_ended(job_id)


def _find_newest(service: Service) -> Position:
    with service.database.read() as connection:
        return feed.find_newest(connection)
