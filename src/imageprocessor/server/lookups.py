"""One query in a request: what it costs decides how many clients a process can serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from imageprocessor.queue.access import Caller
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.server.auth import read_caller

P = ParamSpec("P")
T = TypeVar("T")


async def query(
    service: Service, read: Callable[Concatenate[Service, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run *read*, which reads one row.

    Here for SQLite, whose query costs less than a thread does, else in a thread.
    """
    if service.database.reads_inline:
        return read(service, *args, **kwargs)
    return await run_in_threadpool(read, service, *args, **kwargs)


async def look_up(request: Request, read: Callable[..., Job], *args: str) -> tuple[Job, Caller]:
    """Return what *read* finds under an id, and who asks for it.

    Two of FastAPI's dependencies would cost more.
    """
    service, caller = request.state.service, await read_caller(request)
    return await query(service, read, args[0], caller, *args[1:]), caller
