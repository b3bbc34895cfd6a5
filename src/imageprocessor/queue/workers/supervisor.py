"""Embedded workers: child processes that run jobs, and the supervisor that starts and watches them.

A child claims jobs by itself until none is due; the supervisor wakes idle ones. A decode that
hangs, crashes or uses too much memory costs one attempt of one job. The supervisor is a single loop
in one thread and never decodes. A child exits by itself as soon as the supervisor's end of its pipe
closes, even if the supervisor was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import structlog

from imageprocessor.errors import DecodeTimeoutError, JobError, WorkerLostError
from imageprocessor.queue.attempts import end_attempts, release_attempts
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.dispatch.presence import Presence
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.maintenance.housekeeper import Housekeeper
from imageprocessor.queue.process_memory import LARGE_PAGES
from imageprocessor.queue.service import Service
from imageprocessor.queue.workers import child
from imageprocessor.queue.workers.worker import STOP, Report

POLL_SECONDS = 1.0
STOP_WITHIN_SECONDS = 25.0
ANSWER_SECONDS = 120.0  #: by then, a child that was woken has claimed a job or reported idle
NEVER = float("inf")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Slot:
    """A child process and what it has reported. Times are on the monotonic clock."""

    process: BaseProcess
    pipe: Connection
    worker_id: str
    is_idle: bool = True
    threads: int = 0  #: as last ordered
    #: Until when each of its jobs may take: one at most is being processed, one being finished.
    deadlines: dict[str, float] = field(default_factory=dict)
    active_at: float = 0.0  #: when it was woken, or ended its last job

    @property
    def deadline(self) -> float:
        """When the child must be killed."""
        if self.deadlines:
            return min(self.deadlines.values())
        return NEVER if self.is_idle else self.active_at + ANSWER_SECONDS

    def order(self, threads: int) -> None:
        """Let the child look for jobs and use *threads* for each, or stop."""
        self.threads = threads
        self.is_idle = False
        self.active_at = time.monotonic()
        with suppress(OSError):  # it has just died, and the next round replaces it
            self.pipe.send(threads)

    def read_reports(self) -> None:
        """Note what the child has reported since the last time."""
        with suppress(EOFError, OSError):  # it is dead, and the next round removes its slot
            while self.pipe.poll():
                self._note(self.pipe.recv())

    def _note(self, report: Report) -> None:
        if report is None:
            self.is_idle = True
            return
        job_id, deadline = report
        if deadline is None:
            self.deadlines.pop(job_id, None)
            self.active_at = time.monotonic()
        else:
            self.deadlines[job_id] = deadline
            self.is_idle = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Attempts of a child that is gone, which are still to be ended in the database."""

    worker_id: str
    error: JobError
    overdue: str | None = None  #: the job because of which the child was killed


class Supervisor:
    """Runs a service's jobs in *worker_count* child processes until :meth:`stop` is called."""

    def __init__(self, service: Service, worker_count: int) -> None:
        self._service = service
        self._worker_count = worker_count
        self._slots: list[Slot] = []
        self._losses: list[Loss] = []
        self._stopping = threading.Event()
        self._presence: Presence | None = None

    def run(self) -> None:
        """Supervise until stopped.

        On stop, running jobs have 25 s to finish; those killed after that are released uncounted.
        """
        directory = workers_directory(self._service.settings)
        with presence.announce(directory, self._worker_count) as announced:
            self._presence = announced
            try:
                self._supervise(announced)
            finally:
                self._presence = None

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()
        if self._presence:
            self._presence.wake()

    def _supervise(self, announced: Presence) -> None:
        housekeeper = Housekeeper(self._service)
        housekeeping = threading.Thread(target=housekeeper.run, name="housekeeper", daemon=True)
        housekeeping.start()
        while not self._stopping.is_set():
            try:
                self._remove_dead()
                self._start_missing(announced.supervisor_id)
                self._kill_overdue()
                self._end_lost_attempts()
                self._wake_idle()
            except DATABASE_FAULTS as error:
                log.warning("database_unavailable", cause=str(error))
            nearest = min((slot.deadline for slot in self._slots), default=NEVER)
            timeout_seconds = min(POLL_SECONDS, nearest - time.monotonic())
            self._wait(announced, max(0.0, timeout_seconds))
        housekeeper.stop()
        self._shut_down(announced.supervisor_id)
        housekeeping.join()

    def _remove_dead(self) -> None:
        dead = [slot for slot in self._slots if not slot.process.is_alive()]
        for slot in dead:
            code = slot.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            error = WorkerLostError(f"The worker process ended ({how}) during the job.")
            self._remove_slot(slot, Loss(slot.worker_id, error))

    def _start_missing(self, supervisor_id: str) -> None:
        os.environ.setdefault(*LARGE_PAGES)
        context = multiprocessing.get_context("spawn")
        while len(self._slots) < self._worker_count:
            our_end, its_end = context.Pipe()
            process = context.Process(
                target=child.start,
                args=(its_end, self._service.settings.without_secrets(), supervisor_id),
                name="imageprocessor worker",
                daemon=True,
            )
            process.start()
            its_end.close()
            worker_id = f"{supervisor_id}:{process.pid}"
            self._slots.append(Slot(process, our_end, worker_id))

    def _kill_overdue(self) -> None:
        seconds = self._service.settings.job_timeout_seconds
        now = time.monotonic()
        for slot in [slot for slot in self._slots if slot.deadline <= now]:
            slot.process.kill()
            slot.process.join()
            error = DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds}.")
            overdue = min(slot.deadlines, key=slot.deadlines.__getitem__, default=None)
            self._remove_slot(slot, Loss(slot.worker_id, error, overdue))

    def _remove_slot(self, slot: Slot, loss: Loss) -> None:
        """Remove a slot whose process has ended."""
        self._slots.remove(slot)
        slot.pipe.close()
        self._losses.append(loss)

    def _end_lost_attempts(self) -> None:
        while self._losses:
            loss = self._losses[0]
            try:
                end_attempts(self._service, loss.worker_id, loss.error, loss.overdue)
            except DATABASE_FAULTS as fault:
                log.warning("attempts_not_ended", worker_id=loss.worker_id, cause=str(fault))
                return
            self._losses.pop(0)

    def _wake_idle(self) -> None:
        """Wake as many idle children as there are due jobs."""
        idle = [slot for slot in self._slots if slot.is_idle]
        if not idle:
            return
        with self._service.database.read() as connection:
            due = job_store.list_due(connection, clock.utc_now(), limit=len(idle))
        busy = [slot for slot in self._slots if not slot.is_idle]
        woken = idle[: len(due)]
        # Busy children share the processors of idle ones.
        threads = len(self._slots) // max(1, len(busy) + len(woken))
        for slot in woken:
            slot.order(threads)
        for slot in busy:
            if slot.threads != threads:
                slot.order(threads)

    def _wait(self, announced: Presence, timeout_seconds: float) -> None:
        """Sleep until a child becomes idle or dies, a job arrives, or *timeout_seconds* pass.

        A report of a child that goes on with the next job wakes nobody.
        """
        exits = [slot.process.sentinel for slot in self._slots]
        wait([*exits, announced.wake_descriptor], timeout_seconds)
        announced.drain()
        for slot in self._slots:
            slot.read_reports()

    def _shut_down(self, supervisor_id: str) -> None:
        for slot in self._slots:
            slot.order(STOP)
        until = time.monotonic() + STOP_WITHIN_SECONDS
        for slot in self._slots:
            slot.process.join(max(0.0, until - time.monotonic()))
            slot.process.kill()
            slot.process.join()
            slot.pipe.close()
        self._end_lost_attempts()
        try:
            release_attempts(self._service, supervisor_id)
        except DATABASE_FAULTS as error:
            log.warning("jobs_not_released", cause=str(error))
