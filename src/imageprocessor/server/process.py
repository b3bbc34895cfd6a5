"""Running an API process: uvicorn's configuration, server and shutdown."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import ChangeReload

import imageprocessor
from imageprocessor.collector import collector_paused

# Names, so that only a process that answers requests imports the application and its framework.
APP = "imageprocessor.server.app:create_app_from_environment"
PROTOCOL = "imageprocessor.server.protocol:Connection"
ARRIVAL_SECONDS = 0.1  #: for the request on a connection that has just been accepted
DRAIN_SECONDS = 1.0  #: for requests on connections that a proxy keeps open
FINISH_REQUESTS_SECONDS = 8
CANCEL_SECONDS = 1  #: for cancelled requests to respond and clean up


class Server(uvicorn.Server):
    """uvicorn's server, changed in what it does with open connections at its shutdown.

    It first ends the requests that wait for events. Then it answers requests on connections that
    have just been accepted, or that a proxy keeps open, and asks the proxy to close them: uvicorn
    would close them at once, and a proxy cannot repeat an upload. At the end it aborts the
    connections that are left; otherwise uvloop would wait for clients that do not read their
    responses.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if poller := self.lifespan.state.get("event_poller"):
            poller.stop()
        for server in self.servers:
            server.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        await asyncio.sleep(ARRIVAL_SECONDS)
        deadline = time.monotonic() + DRAIN_SECONDS
        while state.connections and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(ARRIVAL_SECONDS)
        await super().shutdown(sockets)
        cancelled = self.server_state.tasks
        if cancelled and not self.force_exit:
            await asyncio.wait(cancelled, timeout=CANCEL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the server itself, which the application cannot read from its settings."""

    root_path: str
    keep_alive_seconds: int


def run_api_process(sockets: list[socket.socket] | None, options: ServerOptions) -> None:
    """Serve requests until SIGTERM, which the app also sends itself if its parent dies."""
    config = configure(options)
    server = Server(config)
    if multiprocessing.parent_process() is None:
        # Otherwise a KeyboardInterrupt would break the imports. A child may end in the middle.
        _stop_at_signal(server)
    with collector_paused():
        config.load()  # imports and builds the application
    _stop_at_signal(server)
    server.run(sockets)


def _stop_at_signal(server: Server) -> None:
    """Let SIGINT and SIGTERM stop *server*.

    uvicorn installs these handlers too, but later; an earlier signal would break its startup.
    """
    for number in HANDLED_SIGNALS:
        signal.signal(number, server.handle_exit)


def run_reloading(sockets: list[socket.socket], options: ServerOptions) -> None:
    """Serve requests in a child process that is restarted when this package's code changes."""
    package = Path(imageprocessor.__file__).parent
    config = configure(options, reload=True, reload_dirs=[str(package)])
    target = partial(run_api_process, options=options)
    ChangeReload(config, target=target, sockets=sockets).run()


def configure(options: ServerOptions, **reloading: Any) -> uvicorn.Config:
    """Return uvicorn's configuration; the application reads its settings from the environment."""
    return uvicorn.Config(
        APP,
        factory=True,
        http=PROTOCOL,
        ws="none",
        log_config=None,  # configure_logs sets up logging
        log_level="warning",
        access_log=False,  # RequestLog writes one line per request, with its id
        server_header=False,
        timeout_graceful_shutdown=FINISH_REQUESTS_SECONDS,
        root_path=options.root_path,
        timeout_keep_alive=options.keep_alive_seconds,
        **reloading,
    )
