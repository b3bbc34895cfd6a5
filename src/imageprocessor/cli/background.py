"""Running the workers or the sweep, next to the API or alone, and stopping them.

The first SIGINT or SIGTERM stops the API, then the workers; both finish their current work. The
next signal ends the process at once. Either way no child process is left: workers exit when their
parent does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import NoReturn

from imageprocessor.errors import ImageProcessorError
from imageprocessor.queue.maintenance.housekeeper import Housekeeper
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.settings import Settings

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


def choose_background(service: Service) -> Supervisor | Housekeeper | None:
    """Return what to run next to the API: workers, or with Celery only housekeeping, or nothing."""
    settings = service.settings
    if settings.queue_backend == "celery":
        return Housekeeper(service)
    if settings.worker_concurrency == 0:
        return None
    return Supervisor(service, settings.worker_concurrency)


def run_beside(background: Supervisor | Housekeeper, body: Callable[[], object]) -> None:
    """Run *body* while *background* runs in a thread; at the end, stop *background*.

    A signal or a failure of *background* interrupts *body*.

    Raises:
        ImageProcessorError: *background* failed.
    """
    faults: list[Exception] = []
    thread = threading.Thread(
        target=_run_background, args=(background, faults), name="background", daemon=True
    )
    try:
        with blocked_in_children(*STOP_SIGNALS):
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
        # Children remain only if the supervisor failed; they ignore SIGTERM.
        for child in multiprocessing.active_children():
            child.kill()
    if faults:
        raise ImageProcessorError(
            "The workers failed, so the service was stopped. The log has the cause."
        )


def _run_background(background: Supervisor | Housekeeper, faults: list[Exception]) -> None:
    """Run *background*; if it fails, append the error to *faults* and stop the service."""
    try:
        background.run()
    except Exception as error:  # top of this thread: without workers the service must stop
        log.exception("workers_failed")
        faults.append(error)
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def blocked_in_children(*numbers: int) -> Iterator[None]:
    """Block these signals in threads and processes started inside the context.

    Otherwise Ctrl-C would reach them too: it sends SIGINT to the whole process group.
    """
    # Start the tracker first, because its start unblocks SIGINT and SIGTERM.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def become_celery(settings: Settings, name: str) -> NoReturn:
    """Replace this process with a Celery worker; *name* identifies it on this host.

    Raises:
        ImageProcessorError: The service cannot be opened.
    """
    # Celery would report the same error with a long traceback.
    with open_service(settings):
        pass
    command = [sys.executable, "-m", "celery", "-A", "imageprocessor.queue.celery_app", "worker"]
    # Gossip and mingle are not needed here, and workers that used them did not recover after a
    # restart of Redis.
    command += ["--without-gossip", "--without-mingle"]
    command += [f"--concurrency={settings.worker_concurrency}", f"--hostname={name}@%h"]
    os.execv(sys.executable, command)  # noqa: S606 - no shell needed


def wait_for_interrupt() -> NoReturn:
    """Sleep until a signal handler raises."""
    while True:
        time.sleep(1)


def stop_by_interrupt() -> None:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt in the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def end_at_next_signal() -> None:
    """Make SIGINT and SIGTERM end the process at once."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(130))
