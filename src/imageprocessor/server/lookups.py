"""Looking up what clients poll for: one query, on whose cost the number of clients depends that a process can serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from imageprocessor.queue.access import Caller
from imageprocessor.queue.jobs import Job
from imageprocessor.queue.service import Service
from imageprocessor.server.auth import read_caller

P = ParamSpec("P")


async def look_up(
    request: Request,
    read: Callable[Concatenate[Service, str, Caller, P], Job],
    id_: str,
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[Job, Caller]:
    """Return what *read* finds under *id_*, and who asks for it.

    A thread costs more than SQLite's query, and so do two of FastAPI's dependencies.
    """
    service, caller = request.state.service, await read_caller(request)
    if service.settings.sqlite_path:
        return read(service, id_, caller, *args, **kwargs), caller
    return await run_in_threadpool(read, service, id_, caller, *args, **kwargs), caller
