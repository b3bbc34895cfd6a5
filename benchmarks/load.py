"""Load an HTTP server on this machine.

`python -m benchmarks.load PORT CONNECTIONS REQUESTS`, the request on stdin.

Each connection sends the same bytes again as soon as it has the whole answer. Prints a JSON object:
``seconds`` in total, ``p50`` and ``p99`` in milliseconds from the first byte sent to the last one
received, and ``statuses``, the number of answers by status.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from statistics import quantiles

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection, which sends requests as long as any are *left* to be sent."""

    def __init__(self, request: bytes, left: list[None], ended: asyncio.Future[None]) -> None:
        self.request, self.left, self.ended = request, left, ended
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.received = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is TCP
        self.transport = transport
        self.send()

    def send(self) -> None:
        if self.left:
            self.left.pop()
            self.started = time.perf_counter()
            self.transport.write(self.request)
        else:
            self.ended.set_result(None)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, gap, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not gap or length is None or len(body) < int(length[1]):
            return
        self.seconds.append(time.perf_counter() - self.started)
        self.statuses[int(head[9:12])] += 1
        self.received.clear()
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the server closed the connection"))


async def load(request: bytes, port: int, connections: int, requests: int) -> dict[str, object]:
    """Send *request* *requests* times in total, over *connections* parallel connections."""
    left, loop = [None] * requests, asyncio.get_running_loop()
    started = time.perf_counter()

    def make_client() -> Client:
        return Client(request, left, loop.create_future())

    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(make_client, "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.ended for client in clients))
    taken = time.perf_counter() - started
    milliseconds = [second * 1000 for client in clients for second in client.seconds]
    percentiles = quantiles(milliseconds, n=100)
    statuses = sum((client.statuses for client in clients), Counter())
    return {"seconds": taken, "p50": percentiles[49], "p99": percentiles[98], "statuses": statuses}


if __name__ == "__main__":
    port, connections, requests = map(int, sys.argv[1:])
    result = uvloop.run(load(sys.stdin.buffer.read(), port, connections, requests))
    sys.stdout.write(json.dumps(result))
