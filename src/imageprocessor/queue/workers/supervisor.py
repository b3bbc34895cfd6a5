"""Embedded workers: child processes that run jobs, and the supervisor that starts and watches them.

A decode that hangs, crashes or uses too much memory costs one attempt of one job. The supervisor
is a single loop in one thread and never decodes. A child exits by itself as soon as the
supervisor's end of its pipe closes, even if the supervisor was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import structlog

from imageprocessor.errors import DecodeTimeoutError, JobError, WorkerLostError
from imageprocessor.queue.attempts import fail_attempts
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.dispatch.presence import Presence
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import EventType, JobStatus
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.process_memory import LARGE_PAGES
from imageprocessor.queue.service import Service
from imageprocessor.queue.workers.worker import work

POLL_SECONDS = 1.0
STOP_WITHIN_SECONDS = 25.0
NEVER = float("inf")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Slot:
    """A child process and the job that it runs."""

    process: BaseProcess
    pipe: Connection
    worker_id: str
    job_id: str | None = None
    deadline: float = NEVER  #: on the monotonic clock


class Supervisor:
    """Runs a service's jobs in *worker_count* child processes until :meth:`stop` is called."""

    def __init__(self, service: Service, worker_count: int) -> None:
        self._service = service
        self._worker_count = worker_count
        self._slots: list[Slot] = []
        self._lost: list[tuple[Slot, JobError]] = []  # attempts still to be ended in the database
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
        sweeper = Sweeper(self._service)
        sweeping = threading.Thread(target=sweeper.run, name="sweeper", daemon=True)
        sweeping.start()
        while not self._stopping.is_set():
            try:
                self._remove_dead()
                self._start_missing(announced.supervisor_id)
                self._kill_overdue()
                self._end_lost_attempts()
                self._hand_out()
            except DATABASE_FAULTS as error:
                log.warning("database_unavailable", cause=str(error))
            nearest = min((slot.deadline for slot in self._slots), default=NEVER)
            timeout_seconds = min(POLL_SECONDS, nearest - time.monotonic())
            self._wait(announced, max(0.0, timeout_seconds))
        sweeper.stop()
        self._shut_down(announced)
        sweeping.join()

    def _remove_dead(self) -> None:
        dead = [slot for slot in self._slots if not slot.process.is_alive()]
        for slot in dead:
            code = slot.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            error = WorkerLostError(f"The worker process ended ({how}) during the job.")
            self._remove_slot(slot, error)

    def _start_missing(self, supervisor_id: str) -> None:
        os.environ.setdefault(*LARGE_PAGES)
        context = multiprocessing.get_context("spawn")
        while len(self._slots) < self._worker_count:
            our_end, its_end = context.Pipe()
            process = context.Process(
                target=work,
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
        overdue = [slot for slot in self._slots if slot.deadline <= now]
        for slot in overdue:
            slot.process.kill()
            slot.process.join()
            error = DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds}.")
            self._remove_slot(slot, error)

    def _remove_slot(self, slot: Slot, error: JobError) -> None:
        """Remove a slot whose process has ended; its attempt, if any, is to fail with *error*."""
        self._slots.remove(slot)
        slot.pipe.close()
        if slot.job_id:
            self._lost.append((slot, error))

    def _end_lost_attempts(self) -> None:
        while self._lost:
            slot, error = self._lost[0]
            try:
                fail_attempts(self._service, slot.worker_id, error)
            except DATABASE_FAULTS as fault:
                log.warning("attempt_not_ended", job_id=slot.job_id, cause=str(fault))
                return
            self._lost.pop(0)

    def _hand_out(self) -> None:
        """Send a due job to each idle child."""
        idle = [slot for slot in self._slots if slot.job_id is None]
        if not idle:
            return
        with self._service.database.read() as connection:
            due = job_store.list_due(connection, clock.utc_now(), limit=len(self._slots))
        # A job that was handed out stays due until its child claims it.
        handed_out = {slot.job_id for slot in self._slots}
        waiting = [job_id for job_id in due if job_id not in handed_out]
        assigned = list(zip(idle, waiting, strict=False))
        # Busy children share the processors of idle ones.
        busy_count = len(self._slots) - len(idle) + len(assigned)
        for slot, job_id in assigned:
            self._send(slot, job_id, threads=len(self._slots) // busy_count)

    def _send(self, slot: Slot, job_id: str, threads: int) -> None:
        try:
            slot.pipe.send((job_id, threads))
        except OSError:
            return  # the child just died: the next round replaces it, and the job is still due
        slot.job_id = job_id
        slot.deadline = time.monotonic() + self._service.settings.job_timeout_seconds

    def _wait(self, announced: Presence, timeout_seconds: float) -> None:
        """Sleep until a child finishes or dies, a job arrives, or *timeout_seconds* pass."""
        pipes = [slot.pipe for slot in self._slots]
        exits = [slot.process.sentinel for slot in self._slots]
        ready = wait([*pipes, *exits, announced.wake_descriptor], timeout_seconds)
        announced.drain()
        for slot in self._slots:
            if slot.pipe not in ready:
                continue
            with suppress(EOFError, OSError):  # the child is dead: the next round removes its slot
                slot.pipe.recv()
                slot.job_id = None
                slot.deadline = NEVER

    def _shut_down(self, announced: Presence) -> None:
        until = time.monotonic() + STOP_WITHIN_SECONDS
        while self._runs_jobs() and time.monotonic() < until:
            self._wait(announced, 0.2)
        for slot in self._slots:
            slot.process.kill()
            slot.process.join()
            slot.pipe.close()
            if slot.job_id:
                self._release(slot)
        self._end_lost_attempts()

    def _runs_jobs(self) -> bool:
        return any(slot.job_id and slot.process.is_alive() for slot in self._slots)

    def _release(self, slot: Slot) -> None:
        try:
            with self._service.database.write() as connection:
                for job in job_store.list_held_by(connection, slot.worker_id):
                    released = job_store.release(connection, job)
                    # Read it again: it may have been deleted, and nothing follows that event.
                    if released and job_store.find_job(connection, job.job_id):
                        job_store.add_event(
                            connection,
                            EventType.RELEASED,
                            job,
                            clock.utc_now(),
                            previous_status=JobStatus.PROCESSING,
                        )
        except DATABASE_FAULTS as error:
            log.warning("job_not_released", job_id=slot.job_id, cause=str(error))
