"""Reading the rest of a refused upload before its connection is closed.

A client or proxy that is still sending when the connection closes may lose the response.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_SECONDS = 5
DRAIN_BYTES = 32 * 1024 * 1024
BODY_HEADERS = {b"content-length", b"transfer-encoding"}


class LingeringClose:
    """ASGI middleware: sends responses at once, but ends them only after draining the body."""

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
    """Read the rest of the body, but no more than DRAIN_BYTES or DRAIN_SECONDS."""
    left = DRAIN_BYTES
    # On cancellation the server is stopping and the response has already been sent.
    with suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
