"""Embedded workers.

Child processes that run jobs, and the supervisor that hands out, times out and replaces.

A decode that hangs, crashes or eats memory costs one attempt of one job. The supervisor is one loop
in one thread; it decodes nothing. A child ends by itself as soon as the supervisor's end of its
pipe closes, however that happens.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import structlog

from imageprocessor.errors import DecodeTimeoutError, JobError, WorkerLostError
from imageprocessor.queue.attempts import give_back
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import DATABASE_FAULTS
from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.dispatch.presence import Presence
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.jobs.job import EventType
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.service import Service
from imageprocessor.queue.workers.worker import work

#: glibc reads it when a process starts: what a picture needs then comes in pages of 2 MB, where
#: Linux permits, not one
#: by one in pages of 4 kB, which takes a tenth of a job. Other C libraries pass over it.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
LOOK_EVERY_SECONDS = 1.0
STOP_WITHIN_SECONDS = 25.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Slot:
    """A child process and the job it has in hand."""

    process: BaseProcess
    pipe: Connection
    worker_id: str
    job_id: str | None = None
    deadline: float = float("inf")  #: on the monotonic clock


class Supervisor:
    """Runs a service's jobs in *worker_count* child processes until :meth:`stop` is called."""

    def __init__(self, service: Service, worker_count: int) -> None:
        self._service = service
        self._worker_count = worker_count
        self._slots: list[Slot] = []
        self._lost: list[tuple[Slot, JobError]] = []
        self._stopping = threading.Event()
        self._presence: Presence | None = None

    def run(self) -> None:
        """Supervise until stopped.

        Jobs in hand may end within 25 s; what is cut off then is given back uncounted.
        """
        directory = workers_directory(self._service.settings)
        with presence.announce(directory, self._worker_count) as me:
            self._presence = me
            try:
                self._supervise()
            finally:
                self._presence = None

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._stopping.set()
        if self._presence:
            self._presence.wake()

    def _supervise(self) -> None:
        sweeper = Sweeper(self._service)
        sweeping = threading.Thread(target=sweeper.run, name="sweeper", daemon=True)
        sweeping.start()
        while not self._stopping.is_set():
            self._turn()
        sweeper.stop()
        self._shut_down()
        sweeping.join()

    def _turn(self) -> None:
        try:
            self._replace_dead()
            self._kill_overdue()
            self._give_back_lost()
            self._hand_out()
        except DATABASE_FAULTS as error:
            log.warning("database_unavailable", cause=str(error))
        self._wait(self._seconds_to_next_deadline())

    def _replace_dead(self) -> None:
        for slot in [slot for slot in self._slots if not slot.process.is_alive()]:
            self._bury(
                slot,
                WorkerLostError(
                    f"The worker process ended ({_describe_exit(slot.process)}) during the job."
                ),
            )
        while len(self._slots) < self._worker_count:
            self._slots.append(self._spawn())

    def _spawn(self) -> Slot:
        os.environ.setdefault(*LARGE_PAGES)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        supervisor_id = self._presence.supervisor_id if self._presence else ""
        arguments = (theirs, self._service.settings.without_secrets(), supervisor_id)
        process = context.Process(
            target=work, args=arguments, name="imageprocessor worker", daemon=True
        )
        process.start()
        theirs.close()
        return Slot(process, ours, f"{supervisor_id}:{process.pid}")

    def _kill_overdue(self) -> None:
        seconds = self._service.settings.job_timeout_seconds
        for slot in [slot for slot in self._slots if slot.deadline <= time.monotonic()]:
            slot.process.kill()
            slot.process.join()
            self._bury(
                slot,
                DecodeTimeoutError(f"The image took longer than JOB_TIMEOUT_SECONDS={seconds}."),
            )

    def _bury(self, slot: Slot, error: JobError) -> None:
        self._slots.remove(slot)
        slot.pipe.close()
        if slot.job_id:
            self._lost.append((slot, error))

    def _give_back_lost(self) -> None:
        while self._lost:
            slot, error = self._lost[0]
            try:
                give_back(self._service, slot.worker_id, error)
            except DATABASE_FAULTS as fault:
                log.warning("job_not_given_back", job_id=slot.job_id, cause=str(fault))
                return
            self._lost.pop(0)

    def _hand_out(self) -> None:
        idle = [slot for slot in self._slots if slot.job_id is None]
        if not idle:
            return
        busy = {slot.job_id for slot in self._slots}
        with self._service.database.read() as connection:
            due = job_store.list_due(connection, clock.utc_now(), limit=len(self._slots))
        jobs = list(zip(idle, [job_id for job_id in due if job_id not in busy], strict=False))
        at_work = len(self._slots) - len(idle) + len(jobs)
        for slot, job_id in jobs:  # one that works alone uses the processors of those that are idle
            self._send(slot, job_id, threads=len(self._slots) // at_work)

    def _send(self, slot: Slot, job_id: str, threads: int) -> None:
        try:
            slot.pipe.send((job_id, threads))
        except OSError:
            return  # it died just now: the next turn replaces it, the job is still due
        slot.job_id = job_id
        slot.deadline = time.monotonic() + self._service.settings.job_timeout_seconds

    def _seconds_to_next_deadline(self) -> float:
        nearest = min((slot.deadline for slot in self._slots), default=float("inf"))
        return max(0.0, min(LOOK_EVERY_SECONDS, nearest - time.monotonic()))

    def _wait(self, timeout_seconds: float) -> None:
        """Sleep until a child is done or dead, somebody has a job, or the time is up."""
        assert self._presence
        ends = [end for slot in self._slots for end in (slot.pipe, slot.process.sentinel)]
        ready = wait([*ends, self._presence.wake_descriptor], timeout_seconds)
        self._presence.drain()
        for slot in self._slots:
            if slot.pipe in ready:
                _note_done(slot)

    def _shut_down(self) -> None:
        until = time.monotonic() + STOP_WITHIN_SECONDS
        while (
            any(slot.job_id and slot.process.is_alive() for slot in self._slots)
            and time.monotonic() < until
        ):
            self._wait(0.2)
        for slot in self._slots:
            slot.process.kill()
            slot.process.join()
            slot.pipe.close()
            if slot.job_id:
                self._release(slot)
        self._give_back_lost()

    def _release(self, slot: Slot) -> None:
        try:
            with self._service.database.write() as connection:
                for job in job_store.list_held_by(connection, slot.worker_id):
                    job_store.release(connection, job)
                    job_store.add_event(connection, EventType.RELEASED, job, clock.utc_now())
        except DATABASE_FAULTS as error:
            log.warning("job_not_released", job_id=slot.job_id, cause=str(error))


def _note_done(slot: Slot) -> None:
    try:
        slot.pipe.recv()
    except (EOFError, OSError):
        return  # dead: the next turn buries it
    slot.job_id, slot.deadline = None, float("inf")


def _describe_exit(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"
