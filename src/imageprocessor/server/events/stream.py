"""Server-sent events: a response that lasts as long as the client listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from imageprocessor.errors import ImageProcessorError, TooManyStreamsError
from imageprocessor.queue.events import feed
from imageprocessor.queue.events.feed import Event, Position
from imageprocessor.queue.service import Service
from imageprocessor.server.events.poller import (
    ALL,
    EventPoller,
    Topic,
    topic_of_job,
    topic_of_user,
)
from imageprocessor.server.events.waiting import stop_on_disconnect
from imageprocessor.server.protocol import max_connections

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Vary": "Accept"}
PING = b": ping\n\n"
PING_SECONDS = 15.0
MAX_STREAM_SECONDS = 3600.0  #: then the client connects again, and its token is checked again
EVENTS_PER_READ = 50
MAX_QUEUED = 50  #: events that wait for a slow client; more are read from the database later

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose events a request is about: those of a user, those of a job, or all."""

    user_id: str | None = None
    job_id: str | None = None
    shows_context: bool = True  #: False if the caller is neither the owner nor an admin

    @property
    def topic(self) -> Topic:
        """What the poller calls it."""
        if self.job_id is not None:
            return topic_of_job(self.job_id)
        return ALL if self.user_id is None else topic_of_user(self.user_id)

    def describe(self) -> dict[str, Any]:
        """Return the arguments of the feed's functions."""
        return {"user_id": self.user_id, "job_id": self.job_id}


def check_stream_count(service: Service, poller: EventPoller) -> None:
    """Raise TooManyStreamsError if this process has as many streams as it may."""
    limit = min(service.settings.max_event_streams, max_connections() // 2)
    if poller.stream_count >= limit:
        raise TooManyStreamsError(
            f"{limit} event streams are open. Try again later, or read pages of events."
        )


class EventStream(Response):
    """The events after a position, stored and future ones; a watcher of the poller.

    The stream of a job ends with the job. Any other ends after MAX_STREAM_SECONDS.

    Events that arrive while the client is slow are queued. If these become too many, they are
    dropped, and the stream is "behind": it reads them from the database when the client continues.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        service: Service,
        poller: EventPoller,
        selection: Selection,
        after: Position,
        base_url: str,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)  # without a body, and so without Content-Length
        self._service = service
        self._poller = poller
        self._selection = selection
        self._after = after
        self._base_url = base_url
        self._queue: deque[Event] = deque()
        self._is_behind = True
        self._is_stopped = False
        self._changed = asyncio.Event()

    @property
    def topics(self) -> Iterable[Topic]:
        return (self._selection.topic,)

    def receive(self, event: Event) -> None:
        if self._is_behind:  # it will be read from the database
            return
        self._queue.append(event)
        if len(self._queue) > MAX_QUEUED:
            self._queue.clear()
            self._is_behind = True
        self._changed.set()

    def note_ended(self, job_id: str) -> None:  # noqa: ARG002 - there is only one
        self._is_behind = True
        self._changed.set()

    def stop(self) -> None:
        self._is_stopped = True
        self._changed.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        watching = asyncio.create_task(stop_on_disconnect(receive, self))
        self._poller.stream_count += 1
        try:
            async with self._poller.watch(self):
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                await self._send_events(send)
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._poller.stream_count -= 1
            watching.cancel()

    async def _send_events(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + MAX_STREAM_SECONDS
        try:
            while not self._is_stopped and loop.time() < end:
                if self._is_behind:
                    is_over = await self._is_over()
                    await self._send_stored(send)
                    if is_over:
                        return
                await self._send_queued(send)
                if not (self._queue or self._is_behind or self._is_stopped):
                    await self._wait(send)
        except ImageProcessorError as error:  # the client will connect again
            log.warning("event_stream_ended", cause=str(error))

    async def _is_over(self) -> bool:
        """Return whether this is the stream of a job that has ended."""
        job_id = self._selection.job_id
        if job_id is None:
            return False
        database = self._service.database
        return not await run_in_threadpool(feed.read_open_jobs, database, [job_id])

    async def _send_stored(self, send: Send) -> None:
        """Send what the database has; from here on, events are queued."""
        self._is_behind = False
        selected = self._selection.describe()
        while not self._is_stopped:
            events = await run_in_threadpool(
                feed.fetch_events, self._service.database, self._after, EVENTS_PER_READ, **selected
            )
            for event in events:
                await self._send_event(send, event)
            if len(events) < EVENTS_PER_READ:
                return

    async def _send_queued(self, send: Send) -> None:
        while self._queue and not self._is_stopped:
            event = self._queue.popleft()
            if self._follows(event):  # else it was read from the database, too
                await self._send_event(send, event)

    def _follows(self, event: Event) -> bool:
        if self._selection.job_id is not None:  # see `feed`
            return event.position.number > self._after.number
        return event.position > self._after

    async def _send_event(self, send: Send, event: Event) -> None:
        data = event.encode(self._base_url, shows_context=self._selection.shows_context)
        frame = f"id: {event.position}\nevent: {event.public_type}\ndata: {data}\n\n"
        await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
        self._after = event.position
        if self._selection.job_id is not None and event.is_final:
            self._is_behind = True  # find out whether it is over

    async def _wait(self, send: Send) -> None:
        """Wait for something to happen; if nothing does, send a comment."""
        self._changed.clear()
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            await send({"type": "http.response.body", "body": PING, "more_body": True})
