"""What runs beside the API or alone: the workers or the sweep, and how they stop.

The first SIGINT or SIGTERM stops the API, then the workers, and lets both finish what they have in
hand. The next one ends the process at once. No child outlives it in either case: workers watch for
its end.
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
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.settings import Settings

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


def choose_background(service: Service) -> Supervisor | Sweeper | None:
    """Return what runs beside the API: the workers, or the sweep where Celery has the workers."""
    settings = service.settings
    if settings.queue_backend == "celery":
        return Sweeper(service)
    if settings.worker_concurrency == 0:
        return None
    return Supervisor(service, settings.worker_concurrency)


def run_beside(background: Supervisor | Sweeper, body: Callable[[], object]) -> None:
    """Run *body* beside *background* until it is interrupted, then stop *background*.

    A signal interrupts it, or a failure of *background*.

    Raises:
        ImageProcessorError: The workers failed.
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
        # There are some only if the supervisor failed; they ignore SIGTERM.
        for child in multiprocessing.active_children():
            child.kill()
    if faults:
        raise ImageProcessorError(
            "The workers failed, so the service was stopped: the log has the cause."
        )


def _run_background(background: Supervisor | Sweeper, faults: list[Exception]) -> None:
    """Run the background; on a failure, append it to *faults* and stop the service."""
    try:
        background.run()
    except Exception as error:  # this thread's boundary: a service must not go on without workers
        log.exception("the workers failed")
        faults.append(error)
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def blocked_in_children(*numbers: int) -> Iterator[None]:
    """Block these signals in the threads and processes that are started meanwhile.

    Ctrl-C sends SIGINT to the whole process group.
    """
    # Started now, because its start unblocks SIGINT and SIGTERM.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def become_celery(settings: Settings) -> NoReturn:
    """Replace this process by Celery's worker.

    Raises:
        ImageProcessorError: The service cannot be opened, which Celery would report at greater
            length.
    """
    with open_service(settings):
        pass
    command = [sys.executable, "-m", "celery", "-A", "imageprocessor.queue.celery_app", "worker"]
    # Gossip and mingle serve nothing here, and workers that had them did not come back after Redis
    # was restarted.
    command += ["--without-gossip", "--without-mingle"]
    command.append(f"--concurrency={settings.worker_concurrency}")
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
