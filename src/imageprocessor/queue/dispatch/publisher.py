"""Sending wake-ups to Celery in a thread: an upload neither waits for the broker nor needs it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from imageprocessor.errors import BrokerUnavailableError
from imageprocessor.queue.dispatch.broker import Broker

MAX_UNSENT = 10_000  #: further wake-ups are dropped; the sweep sends them again
#: While this many messages wait for workers, the sweep resends none. It runs every 5 s, so after a
#: long pause or an outage of Redis, workers of all hosts get at most 200 jobs a second.
MAX_WAITING = 1000
FLUSH_SECONDS = 3.0

log = structlog.get_logger(__name__)


class Publisher:
    """A Dispatcher that calls *publish* with each job id, in a thread that the first job starts."""

    def __init__(self, publish: Callable[[str], object], broker: Broker) -> None:
        self._publish = publish
        self._broker = broker
        self._unsent: queue.Queue[str | None] = queue.Queue(MAX_UNSENT)  # None: end the thread
        self._thread = threading.Thread(target=self._send, name="publisher", daemon=True)
        self._starting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send the remaining wake-ups, for at most 3 s."""
        with suppress(queue.Full):
            self._unsent.put_nowait(None)
        if self._has_started():
            self._thread.join(FLUSH_SECONDS)

    def dispatch(self, job_id: str) -> None:
        with suppress(queue.Full):
            self._unsent.put_nowait(job_id)
        with self._starting:
            if not self._has_started():
                self._thread.start()

    def count_workers(self) -> int:
        try:
            return self._broker.count_workers()
        except BrokerUnavailableError:
            return 0

    def count_redispatchable(self) -> int:
        try:
            self._broker.claim_broker()  # the sweep calls this every 5 s, which renews the claim
            return max(0, MAX_WAITING - self._broker.count_waiting())
        except BrokerUnavailableError:
            return 0

    def check(self) -> None:
        self._broker.ping()

    def _has_started(self) -> bool:
        return self._thread.ident is not None

    def _send(self) -> None:
        while (job_id := self._unsent.get()) is not None:
            try:
                self._publish(job_id)
            except BrokerUnavailableError as error:
                log.warning("wake_up_not_sent", job_id=job_id, cause=str(error))
            except Exception:  # whatever fails, continue with the next wake-up
                log.exception("wake_up_failed", job_id=job_id)
