"""Events: as pages, and as streams of server-sent events."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from imageprocessor import errors
from imageprocessor.queue.events import feed
from imageprocessor.queue.events.feed import Event, Position
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.service import Service
from imageprocessor.server.dependencies import BaseUrl, CurrentService, JobId, Reader, User
from imageprocessor.server.events.poller import EventPoller
from imageprocessor.server.events.stream import (
    MEDIA_TYPE,
    EventStream,
    Selection,
    check_stream_count,
)
from imageprocessor.server.openapi import READER_SECURITY, problem_responses
from imageprocessor.server.problems import describe_delay
from imageprocessor.server.responses import JsonLine
from imageprocessor.server.schemas import EventPage
from imageprocessor.server.threads import run_read

CURSOR_ERRORS = (
    errors.InvalidCursorError,
    errors.ExpiredCursorError,
    errors.TooManyStreamsError,
    errors.RequestError,
)
CURSOR_OR_NONE = {"pattern": f"^({feed.CURSOR.pattern})?$"}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


class PageRequest(NamedTuple):
    """Where a page or stream begins, and how many events a page has."""

    after: Position | None
    limit: int


async def read_page_request(
    after: Annotated[
        str,
        Query(
            description=(
                "A cursor: the `next` of a page, or the `id` of an event in a stream. Without one, "
                "a page begins with the oldest event."
            ),
            examples=["0-1543"],
            json_schema_extra=CURSOR_OR_NONE,
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=feed.MAX_EVENTS, description="Events in a page.")] = 100,
    last_event_id: Annotated[
        str,
        Header(
            description="Like `after`, which it replaces; browsers send it to reconnect.",
            json_schema_extra=CURSOR_OR_NONE,
        ),
    ] = "",
) -> PageRequest:
    """Return what a request asks for.

    Raises:
        InvalidCursorError: The cursor is not one.
    """
    cursor = last_event_id or after
    return PageRequest(Position.parse(cursor) if cursor else None, limit)


Asked = Annotated[PageRequest, Depends(read_page_request)]

router = APIRouter(prefix="/api/v1", tags=["events"], default_response_class=JsonLine)


@router.get(
    "/events",
    operation_id="getEvents",
    summary="Read or follow one's own events; admins, all events",
    response_model=EventPage,
    responses={**STREAM, **problem_responses(errors.UnauthorizedError, *CURSOR_ERRORS)},
)
async def get_events(
    request: Request,
    service: CurrentService,
    user: User,
    base_url: BaseUrl,
    asked: Asked,
) -> Response:
    """A page; or with `Accept: text/event-stream`, a stream that begins now or after the cursor."""
    selection = Selection(user_id=None if user.admin else user.user_id)
    if not _wants_stream(request):
        return await _make_page(service, selection, asked, base_url)
    poller = prepare_stream(request, service)
    position = await run_read(service, find_start, asked.after)
    return EventStream(service, poller, selection, position, base_url)


@router.get(
    "/images/jobs/{job_id}/events",
    operation_id="getJobEvents",
    summary="Read or follow the events of a job",
    response_model=EventPage,
    responses={
        **STREAM,
        204: {"description": "A stream has nothing more to say: the job has finished."},
        **problem_responses(
            errors.UnauthorizedError,
            errors.InvalidIdError,
            errors.JobNotFoundError,
            *CURSOR_ERRORS,
        ),
    },
    openapi_extra=READER_SECURITY,
)
async def get_job_events(
    request: Request,
    service: CurrentService,
    caller: Reader,
    base_url: BaseUrl,
    job_id: JobId,
    asked: Asked,
) -> Response:
    """A page; or with `Accept: text/event-stream`, a stream of past and future events.

    The stream ends when the job has finished. A browser that then reconnects gets 204, and stops.
    """
    job = await run_read(service, read_job, job_id, caller)
    selection = Selection(job_id=job.job_id, shows_context=caller.owns(job))
    if not _wants_stream(request):
        return await _make_page(service, selection, asked, base_url)
    poller = prepare_stream(request, service)
    left, _ = await _read_page(service, selection, asked)
    if not left and not await run_read(service, _is_open, job.job_id):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return EventStream(service, poller, selection, asked.after or feed.START, base_url)


def _wants_stream(request: Request) -> bool:
    return MEDIA_TYPE in ",".join(request.headers.getlist("accept"))


def prepare_stream(request: Request, service: Service) -> EventPoller:
    """Return the poller, unless no stream can be added to it."""
    poller: EventPoller = request.state.event_poller
    if poller.is_stopped:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        raise HTTPException(status, headers=describe_delay(status))
    check_stream_count(service, poller)
    return poller


async def _make_page(
    service: Service, selection: Selection, asked: PageRequest, base_url: str
) -> Response:
    found, following = await _read_page(service, selection, asked)
    encoded = [event.encode(base_url, shows_context=selection.shows_context) for event in found]
    content = f'{{"events":[{",".join(encoded)}],"next":"{following}"}}\n'
    return Response(content, media_type="application/json", headers={"Vary": "Accept"})


async def _read_page(
    service: Service, selection: Selection, asked: PageRequest
) -> tuple[list[Event], Position]:
    selected = selection.describe()
    return await run_in_threadpool(feed.read_page, service.database, *asked, **selected)


def find_start(service: Service, after: Position | None) -> Position:
    """Return the position after which a stream begins: now, if there is no cursor."""
    with service.database.read() as connection:
        if after is None:
            return feed.find_newest(connection)
        feed.check_cursor(connection, after)
        return after


def _is_open(service: Service, job_id: str) -> bool:
    return bool(feed.read_open_jobs(service.database, [job_id]))
