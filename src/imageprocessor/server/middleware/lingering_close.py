"""Reads the rest of a refused upload before the connection is closed.

A client, or its proxy, that still sends when the connection closes may lose the answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LISTEN_SECONDS = 5
LISTEN_BYTES = 32 * 1024 * 1024
BODY_HEADERS = {b"content-length", b"transfer-encoding"}


class LingeringClose:
    """ASGI middleware: sends an answer at once, but ends it after the request's body, or enough."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if BODY_HEADERS.isdisjoint(name for name, _ in scope.get("headers", ())):
            await self.app(scope, receive, send)
            return
        body_ended = False

        async def receive_noting_end() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = body_ended or not message.get("more_body", False)
            return message

        async def send_lingering(message: Message) -> None:
            is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_end and not body_ended:
                await send({**message, "more_body": True})
                await _discard_body(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self.app(scope, receive_noting_end, send_lingering)


async def _discard_body(receive: Receive) -> None:
    """Read the rest of the body, up to LISTEN_BYTES or for LISTEN_SECONDS."""
    left = LISTEN_BYTES
    # Cancelled: the server stops, and the answer is on its way.
    with suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(LISTEN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
