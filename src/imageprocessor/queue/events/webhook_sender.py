"""Sends webhooks that are due, beside the sweep.

One thread claims deliveries and records how they ended; each try has a thread of its own, because a
receiver may take 15 s. That other threads use no database, so a full pool of connections delays
nobody.

An endpoint fails when two deliveries have failed since its last success: one alone may be to blame
itself. From then on it is probed by one delivery at a time, the one that is due first, and the
others keep their tries. The first success ends that.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue

import structlog
from sqlalchemy import Connection

from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.events.webhook_request import Reply, send
from imageprocessor.queue.jobs import webhook_deliveries
from imageprocessor.queue.jobs.webhook_deliveries import Delivery
from imageprocessor.queue.jobs.webhook_schedule import Schedule
from imageprocessor.queue.jobs.webhooks import Endpoint, disable_endpoint, find_endpoint
from imageprocessor.queue.metrics.families import DELIVERIES
from imageprocessor.queue.service import Service

POLL_SECONDS = 0.05  #: a webhook is to arrive within 0.1 s
LOOK_SECONDS = 2.0  #: while there is no enabled endpoint
FAULT_PAUSE_SECONDS = 1.0
STOP_WITHIN_SECONDS = 5.0
#: What a small receiver can take; 8 tries of 20 ms are 400 a second.
TRIES_PER_ENDPOINT = 8
#: Threads of all endpoints. If all others hang, one endpoint of 64 still has its own.
TRIES = 64

Ended = tuple[Delivery, Reply]

log = structlog.get_logger(__name__)


class WebhookSender:
    """Sends the webhooks of *service* until :meth:`stop` is called.

    Several processes may do so at once. *schedule* is shorter in tests.
    """

    def __init__(self, service: Service, schedule: Schedule | None = None) -> None:
        self._database = service.database
        self._counts = service.counts
        self._ca_file = service.settings.webhook_ca_file
        self._schedule = schedule or Schedule()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._unrecorded: list[Ended] = []
        self._running: set[Delivery] = set()  #: until they are recorded
        self._is_waiting_for_room = False  #: a try that ends must wake the first thread
        self._is_database_away = False

    def run(self) -> None:
        """Send until stopped. On stop, running tries have 5 s to end."""
        while not self._stopping.is_set():
            pause_seconds = FAULT_PAUSE_SECONDS
            try:
                pause_seconds = self._do_round()
                self._is_database_away = False
            except DATABASE_FAULTS as error:
                if not self._is_database_away:
                    log.warning("webhooks_interrupted", cause=str(error))
                self._is_database_away = True
            except Exception:  # keep sending; what could not be recorded is sent again
                log.exception("webhook_sender_failed")
                self._forget_ended()
            self._wake.wait(pause_seconds)
            self._wake.clear()
        self._end_tries()

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()
        self._wake.set()

    def _do_round(self) -> float:
        """Record which tries have ended, start those that are due; return for how long to wait."""
        self._record_ended()
        with self._database.read() as connection:
            enabled = webhook_deliveries.list_enabled(connection)
        now = clock.utc_now()
        share = max(1, min(TRIES_PER_ENDPOINT, TRIES // max(1, len(enabled))))
        running = Counter(delivery.endpoint for delivery in self._running)
        self._is_waiting_for_room = False
        for endpoint, first_due in enabled:
            if first_due is None or first_due > now:
                continue
            room = min(share - running[endpoint.name], TRIES - len(self._running))
            if endpoint.next_probe_at is not None:
                if endpoint.next_probe_at > now:
                    continue
                room = min(room, 1 - running[endpoint.name])
            started = self._start_tries(endpoint, room, now) if room > 0 else 0
            self._is_waiting_for_room |= started >= room
        return POLL_SECONDS if enabled else LOOK_SECONDS

    def _start_tries(self, endpoint: Endpoint, limit: int, now: datetime) -> int:
        """Claim deliveries and start a thread for each; return how many."""
        lease = self._schedule.claim
        claimed: list[Delivery] = []
        # A power cut may undo the claim: then the try merely does not count.
        with self._database.write(durable=False) as connection:
            may_try = endpoint.next_probe_at is None or webhook_deliveries.begin_probe(
                connection, endpoint, now + lease
            )
            if may_try:
                claimed = webhook_deliveries.claim_due(connection, endpoint.name, limit, now, lease)
        if claimed:
            self._database.flush()  # a power cut must not undo what a receiver is sent
        for delivery in claimed:
            threading.Thread(
                target=self._try, args=(endpoint, delivery), name="webhook", daemon=True
            ).start()
            self._running.add(delivery)  # not if there is no memory for a thread
        return len(claimed)

    def _try(self, endpoint: Endpoint, delivery: Delivery) -> None:
        """Send a delivery once, in a thread."""
        moment = clock.utc_now()
        try:
            reply = send(
                endpoint.url,
                delivery.body.encode(),
                message_id=delivery.event_id,
                secrets=endpoint.list_secrets(moment),
                moment=moment,
                allows_private=endpoint.allows_private,
                timeout_seconds=self._schedule.timeout_seconds,
                ca_file=self._ca_file,
            )
        except Exception as error:  # a boundary: any error fails this try, not the sender
            log.exception("webhook_not_sent")
            reply = Reply(None, f"unexpected error ({type(error).__name__})", None, 0.0)
        self._ended.put((delivery, reply))
        if self._is_waiting_for_room:
            self._wake.set()

    def _record_ended(self) -> None:
        """Record, in one transaction, the tries that have ended since the last round or fault."""
        # Sorted, because two processes that lock rows in different orders could block each other.
        self._unrecorded = sorted(
            [*self._unrecorded, *self._take_ended()], key=lambda pair: pair[0].delivery_id
        )
        if not self._unrecorded:
            return
        by_endpoint: dict[str, list[Ended]] = {}
        for pair in self._unrecorded:
            by_endpoint.setdefault(pair[0].endpoint, []).append(pair)
        now = clock.utc_now()
        with self._database.write(durable=False) as connection:
            outcomes = [
                self._record_delivery(connection, delivery, reply, now)
                for delivery, reply in self._unrecorded
            ]
            for name in sorted(by_endpoint):
                self._record_endpoint(connection, name, by_endpoint[name])
        for outcome in outcomes:
            self._counts.add(DELIVERIES, outcome)
        for delivery, reply in self._unrecorded:
            log.info(
                "webhook_tried",
                endpoint=delivery.endpoint,
                event_id=delivery.event_id,
                attempt=delivery.attempts,
                status=reply.status,
                error=reply.error,
                seconds=round(reply.seconds, 3),
            )
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._running -= {delivery for delivery, _ in self._unrecorded}
        self._unrecorded = []

    def _take_ended(self) -> Iterator[Ended]:
        with suppress(Empty):
            while True:
                yield self._ended.get_nowait()

    def _record_delivery(
        self, connection: Connection, delivery: Delivery, reply: Reply, now: datetime
    ) -> str:
        """Record how a try ended, and return that: delivered, retrying or failed."""
        if reply.succeeded:
            webhook_deliveries.mark_delivered(connection, delivery, reply.status, now)
            return "delivered"
        next_try = self._schedule.next_try(delivery.attempts, now, reply.retry_after_seconds)
        failure = (reply.status, reply.error)
        webhook_deliveries.mark_failed(connection, delivery, failure, next_try, now)
        if next_try is None:
            log.warning("webhook_failed", endpoint=delivery.endpoint, event_id=delivery.event_id)
            return "failed"
        return "retrying"

    def _record_endpoint(self, connection: Connection, name: str, ended: list[Ended]) -> None:
        """Record whether an endpoint fails, by the tries that have *ended* since the last round.

        Any success counts as the last of them.
        """
        has_success = any(reply.succeeded for _, reply in ended)
        if has_success:
            webhook_deliveries.clear_failing(connection, name)
        for delivery, reply in ended:
            asks_for_pause = reply.gone or reply.retry_after_seconds is not None
            if reply.succeeded or (has_success and not asks_for_pause):
                continue
            endpoint = find_endpoint(connection, name)
            if endpoint and endpoint.disabled_at is None:
                self._note_failure(connection, endpoint, delivery, reply)

    def _note_failure(
        self, connection: Connection, endpoint: Endpoint, delivery: Delivery, reply: Reply
    ) -> None:
        """Disable, or probe from now on, an endpoint that failed, if it is time for that."""
        now = clock.utc_now()
        retry_after = reply.retry_after_seconds
        since = endpoint.failing_since or delivery.attempted_at
        is_failing = endpoint.next_probe_at is not None
        if reply.gone:
            _disable(connection, endpoint, "The receiver answered 410 Gone.", now)
            return
        if is_failing and now - since >= self._schedule.disables_after:
            days = self._schedule.disables_after / timedelta(days=1)
            _disable(connection, endpoint, f"Every try has failed for {days:g} days.", now)
            return
        next_probe_at = None
        if is_failing:
            next_probe_at = self._schedule.next_probe(since, now, retry_after)
        elif retry_after is not None or _is_second_to_fail(endpoint, delivery):
            # The first failure may be old, and that of a delivery which is to blame itself.
            since = delivery.attempted_at
            next_probe_at = self._schedule.next_probe(since, now, retry_after)
        is_noted = webhook_deliveries.set_failing(connection, endpoint, since, next_probe_at)
        if is_noted and next_probe_at and not is_failing:
            log.warning("webhook_endpoint_fails", endpoint=endpoint.name, cause=reply.error)

    def _end_tries(self) -> None:
        """Give running tries a moment, then release their claims."""
        until = time.monotonic() + STOP_WITHIN_SECONDS
        self._is_waiting_for_room = True
        try:
            self._record_ended()
            while self._running and time.monotonic() < until:
                self._wake.wait(until - time.monotonic())
                self._wake.clear()
                self._record_ended()
            for delivery in self._running:
                with self._database.write(durable=False) as connection:
                    webhook_deliveries.release(connection, delivery)
        except DATABASE_FAULTS as error:  # then the claims expire
            log.warning("webhooks_not_released", cause=str(error))


def _is_second_to_fail(endpoint: Endpoint, delivery: Delivery) -> bool:
    """Return whether another delivery than this one has failed since the last success."""
    since, previous = endpoint.failing_since, delivery.previous_attempt_at
    return since is not None and (previous is None or previous < since)


def _disable(connection: Connection, endpoint: Endpoint, reason: str, now: datetime) -> None:
    if disable_endpoint(connection, endpoint.name, reason, now):
        log.warning(
            "webhook_endpoint_disabled",
            endpoint=endpoint.name,
            reason=reason,
            remedy=f"Its deliveries wait. Run: imageprocessor webhooks enable {endpoint.name}",
        )
