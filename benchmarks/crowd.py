"""Requests that wait and event streams, held open on a server of this machine.

`python -m benchmarks.crowd PORT`, with the requests on stdin as JSON: a list of pairs, each a
number of connections and the request that each of them sends. Prints a line when all are open, and
holds them until stdin ends; a connection that gets its whole answer sends its request again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

import uvloop

OPEN_SECONDS = 5  #: for the server to get to where the requests wait


class Member(asyncio.Protocol):
    """One connection; it sends its request again when an answer ends."""

    def __init__(self, request: bytes) -> None:
        self.request = request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is TCP
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}\n"):  # JSON; an event ends in two newlines
            self.transport.write(self.request)


async def hold(port: int, crowd: list[tuple[int, str]]) -> None:
    """Hold the connections open until stdin ends."""
    loop = asyncio.get_running_loop()
    for count, request in crowd:
        for _ in range(count):
            await loop.create_connection(partial(Member, request.encode()), "127.0.0.1", port)
    await asyncio.sleep(OPEN_SECONDS)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(hold(int(sys.argv[1]), json.loads(sys.stdin.readline())))
