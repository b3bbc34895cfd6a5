"""Handling unexpected errors, and requests that are cancelled when the server stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageprocessor.errors import ImageProcessorError, UnexpectedError
from imageprocessor.server.problems import (
    Fault,
    describe_delay,
    fault_of,
    find_problem,
    make_problem,
)
from imageprocessor.server.responses import JsonLine

log = structlog.get_logger(__name__)


class UnexpectedErrors:
    """ASGI middleware: logs unexpected errors and responds with a 500 that has no details.

    Requests still unfinished when the server's grace period ends are cancelled and get a 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting_start)
        except Exception:
            if started:  # too late for a 500: the server logs the error and closes the connection
                raise
            log.exception("unexpected_error")
            await _make_unexpected(Request(scope))(scope, receive, send)
        except asyncio.CancelledError:
            if not started:  # otherwise the server closes the connection
                await _make_stopped(Request(scope))(scope, receive, send)


def _make_unexpected(request: Request) -> JsonLine:
    status, title = find_problem(ImageProcessorError)
    fault = Fault(status, UnexpectedError.code, title, "The details are in the server's log.")
    return make_problem(request, fault)


def _make_stopped(request: Request) -> JsonLine:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    fault = replace(fault_of(status), detail="The service is shutting down. Try again.")
    return make_problem(request, fault, describe_delay(status))
