"""The running service.

Its socket, the processes that answer, the workers beside them, and how all of it stops.

The first SIGINT or SIGTERM stops the API, then the workers, and lets both finish what they have in
hand. The next one ends the process at once. No child outlives it in either case: workers and the
application watch for its end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from uvicorn import Config
from uvicorn.importer import import_from_string
from uvicorn.supervisors import ChangeReload

import imageprocessor
from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.settings import Settings

APP = "imageprocessor.server.app:create_app_from_environment"
CONNECTION = "imageprocessor.server.protocol:Connection"
SERVER = "imageprocessor.server.protocol:Server"
BACKLOG = 2048  # connections that wait to be accepted
FINISH_REQUESTS_SECONDS = 9
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


def load_app() -> None:
    """Import the server.

    What it lacks is told now, in this process, not by each one that will answer.
    """
    import_from_string(APP)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port*.

    Raises:
        ImageProcessorError: The port is in use, or the address is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[
            0
        ]  # the rest says again where it was to listen
        raise ImageProcessorError(
            f"Port {port} of {host} cannot be listened on ({reason}): "
            "stop what uses it, or choose others with --port and --host."
        ) from None


def serve_api(listener: socket.socket, process_count: int, *, reload: bool) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Raises:
        ImageProcessorError: The API could not start.
    """
    if reload:
        package = str(Path(imageprocessor.__file__).parent)
        config = _configure(reload=True, reload_dirs=[package])
        ChangeReload(config, target=run_api_process, sockets=[listener]).run()
    elif process_count > 1:
        _supervise_processes(listener, process_count)
    else:
        try:
            run_api_process([listener])
        except SystemExit:
            raise ImageProcessorError("The API did not start: the log has the cause.") from None


def run_api_process(sockets: list[socket.socket] | None) -> None:
    """Answer requests in this process until SIGTERM.

    Which the app also sends when its parent is gone.
    """
    server = import_from_string(SERVER)(_configure())
    for number in (
        STOP_SIGNALS
    ):  # uvicorn listens for them too, but later: an exception before that breaks its start
        signal.signal(number, server.handle_exit)
    server.run(sockets)


def choose_background(service: Service) -> Supervisor | Sweeper | None:
    """Return what runs beside the API: the workers.

    For Celery, whose workers are elsewhere, the sweep.
    """
    settings = service.settings
    if settings.queue_backend == "celery":
        return Sweeper(service)
    return Supervisor(service, settings.worker_concurrency) if settings.worker_concurrency else None


def run_beside(background: Supervisor | Sweeper, body: Callable[[], object]) -> None:
    """Run *body* beside *background* until a signal or a failure of that interrupts it.

    Then stop the background.

    Raises:
        ImageProcessorError: The workers failed.
    """
    faults = list[Exception]()
    thread = threading.Thread(
        target=_run_background, args=(background, faults), name="background", daemon=True
    )
    try:
        with _never_in_children(*STOP_SIGNALS):  # nor in the thread itself
            thread.start()
        body()
    except KeyboardInterrupt:
        pass
    finally:
        end_at_next_signal()
        if not faults:
            background.stop()
        if thread.is_alive():
            thread.join()
        for child in (
            multiprocessing.active_children()
        ):  # none, unless the supervisor failed; they ignore SIGTERM
            child.kill()
    if faults:
        raise ImageProcessorError(
            "The workers failed, so the service was stopped: the log has the cause."
        )


def become_celery(settings: Settings) -> NoReturn:
    """Replace this process by Celery's worker.

    Raises:
        ImageProcessorError: The service cannot be opened, which Celery would tell at greater
            length.
    """
    with open_service(settings):
        pass
    # Gossip and mingle serve nothing here, and workers that had them did not come back after Redis
    # was restarted.
    flags = ["--without-gossip", "--without-mingle", f"--concurrency={settings.worker_concurrency}"]
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "imageprocessor.queue.celery_app",
        "worker",
        *flags,
    ]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def wait_for_interrupt() -> NoReturn:
    """Sleep until a signal's handler raises."""
    while True:
        time.sleep(1)


def stop_by_interrupt() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt in the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def end_at_next_signal() -> None:
    """Let SIGINT and SIGTERM end the process at once."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(130))


def _configure(**options: Any) -> Config:
    return Config(
        APP,
        factory=True,
        http=import_from_string(CONNECTION),
        ws="none",
        log_config=None,  # logs.configure_logs has done it
        log_level="warning",
        access_log=False,  # the server logs its requests itself, with their ids
        server_header=False,
        timeout_graceful_shutdown=FINISH_REQUESTS_SECONDS,
        **options,
    )


def _run_background(background: Supervisor | Sweeper, faults: list[Exception]) -> None:
    try:
        background.run()
    except (
        Exception
    ) as error:  # the boundary of this thread: a service without its workers must not go on
        log.exception("the workers failed")
        faults.append(error)
        os.kill(os.getpid(), signal.SIGTERM)


def _supervise_processes(listener: socket.socket, count: int) -> None:
    processes = [_start_process(listener) for _ in range(count)]
    try:
        while True:
            connection.wait([process.sentinel for process in processes])
            processes = [
                process if process.is_alive() else _replace(process, listener)
                for process in processes
            ]
    except KeyboardInterrupt:
        end_at_next_signal()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start_process(listener: socket.socket) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=run_api_process, args=([listener],), name="imageprocessor api", daemon=True
    )
    with _never_in_children(signal.SIGINT):  # Ctrl-C is the parent's, who then sends SIGTERM
        process.start()
    return process


@contextmanager
def _never_in_children(*numbers: int) -> Iterator[None]:
    """Hold back signals that go to the whole group.

    A process or thread started meanwhile never gets them.
    """
    # not later: its start would let SIGINT and SIGTERM through again
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _replace(process: BaseProcess, listener: socket.socket) -> BaseProcess:
    """Start another in place of a process that was killed; one that gave up would do so again."""
    if (process.exitcode or 0) >= 0:
        raise ImageProcessorError(
            f"An API process ended with exit code {process.exitcode}: the log has the cause."
        )
    log.warning(
        "API process %s was killed by signal %s: starting another",
        process.pid,
        -(process.exitcode or 0),
    )
    return _start_process(listener)
