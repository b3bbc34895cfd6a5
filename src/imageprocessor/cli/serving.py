"""The running API: its socket, its processes and how they stop.

On the first SIGINT or SIGTERM, requests are finished; the next one ends the process at once. No API
process outlives this one: each exits when its parent does.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from imageprocessor.cli.background import blocked_in_children, end_at_next_signal
from imageprocessor.errors import ImageProcessorError
from imageprocessor.server.process import ServerOptions, run_api_process, run_reloading
from imageprocessor.settings import Settings

BACKLOG = 2048  # connections waiting to be accepted

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port*.

    Raises:
        ImageProcessorError: The port is in use, or the address does not belong to this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        cause = error.strerror or str(error)
        reason, _, _ = cause.partition(" (")  # the rest repeats the address
        raise ImageProcessorError(
            f"Cannot listen on port {port} of {host} ({reason}). "
            "Stop the program that uses it, or choose others with --port and --host."
        ) from None


def serve_api(
    settings: Settings,
    listener: socket.socket,
    process_count: int,
    *,
    root_path: str,
    reload: bool,
) -> None:
    """Answer requests until SIGINT or SIGTERM.

    *root_path* is the path at which clients find the service, without which its requests arrive.

    Raises:
        ImageProcessorError: The API could not start.
    """
    options = ServerOptions(root_path, settings.keep_alive_seconds)
    if reload:
        run_reloading([listener], options)
    elif process_count > 1:
        _supervise_processes(listener, process_count, options)
    else:
        try:
            run_api_process([listener], options)
        except SystemExit:
            raise ImageProcessorError("The API did not start. The log has the cause.") from None


def _supervise_processes(listener: socket.socket, count: int, options: ServerOptions) -> None:
    """Keep *count* API processes running until a signal arrives, then stop them."""
    processes = [_start_process(listener, options) for _ in range(count)]
    try:
        while True:
            sentinels = [process.sentinel for process in processes]
            connection.wait(sentinels)
            for index, process in enumerate(processes):
                if not process.is_alive():
                    _check_killed(process)
                    processes[index] = _start_process(listener, options)
    except KeyboardInterrupt:
        end_at_next_signal()
    finally:
        listener.close()  # else connections would wait here, for nobody, while workers finish
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start_process(listener: socket.socket, options: ServerOptions) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=run_api_process,
        args=([listener], options),
        name="imageprocessor api",
        daemon=True,
    )
    # Only this process handles Ctrl-C; it then sends SIGTERM to the others.
    with blocked_in_children(signal.SIGINT):
        process.start()
    return process


def _check_killed(process: BaseProcess) -> None:
    """Raise ImageProcessorError if *process* exited by itself: a new one would do the same."""
    exit_code = process.exitcode or 0
    if exit_code >= 0:
        raise ImageProcessorError(
            f"An API process ended with exit code {process.exitcode}. The log has the cause."
        )
    log.warning("API process %s was killed by signal %s; restarting it", process.pid, -exit_code)
