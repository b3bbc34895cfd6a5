"""This machine: its clock, its disks, its memory, its limits."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from imageprocessor.queue.database import clock
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import BYTES_PER_MB, Settings

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
PLAUSIBLE_SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SMALL_DIFFERENCE = timedelta(seconds=10)
LARGE_DIFFERENCE = timedelta(minutes=1)  # leases last little longer
WATCHED_SECONDS = 0.1
LOW_BYTES, NO_BYTES = 1_000_000_000, 100_000_000
LOW_SHARE = 0.05
ENOUGH_FILES = 1024
SET_CLOCK = "Run a time service (chrony, systemd-timesyncd) on every host."
MAKE_ROOM = "Make room, or move DATA_DIR, STORAGE_PATH or DATABASE_PATH to a larger disk."


def check_clock(differences: Mapping[str, timedelta]) -> Iterator[Finding]:
    """Yield findings on this machine's clock, which is ahead of others' by *differences*."""
    now, started, steady = clock.utc_now(), clock.utc_now(), time.monotonic()
    time.sleep(WATCHED_SECONDS)
    drift = abs((clock.utc_now() - started).total_seconds() - (time.monotonic() - steady))
    if now < PLAUSIBLE_SINCE or drift > WATCHED_SECONDS / 2:
        yield wrong(
            "clock",
            f"It says {now:%Y-%m-%d %H:%M:%S} UTC, and drifts by {drift:.3f} s in 0.1 s.",
            SET_CLOCK,
        )
    elif not differences:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC; there is no other to compare it with")
    yield from (compare_clocks(name, difference) for name, difference in differences.items())


def compare_clocks(name: str, difference: timedelta) -> Finding:
    """Return the finding on a clock of this machine that is ahead of the one of *name* by *difference*."""
    seconds = f"{difference.total_seconds():+.1f} s against {name}"
    if abs(difference) > LARGE_DIFFERENCE:
        return wrong(
            "clock", f"{seconds}: jobs are taken from workers that are at them.", SET_CLOCK
        )
    if abs(difference) > SMALL_DIFFERENCE:
        return warning("clock", f"{seconds}.", SET_CLOCK)
    return ok("clock", seconds)


def check_space(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each file system that something is kept on."""
    folders = [settings.data_dir]
    folders += [settings.storage_path] if settings.storage_backend == "local" else []
    folders += [settings.sqlite_path.parent] if settings.sqlite_path else []
    devices = {
        find_existing(folder).stat().st_dev: folder.resolve() for folder in reversed(folders)
    }
    yield from map(check_disk, devices.values())


def find_existing(folder: Path) -> Path:
    """Return *folder*, or the nearest one above it that is there."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def check_disk(folder: Path) -> Finding:
    """Return the finding on the disk that *folder* is on, or will be."""
    path = find_existing(folder)
    usage, status = shutil.disk_usage(path), os.statvfs(path)
    found = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free for {folder}"
    if usage.free < NO_BYTES:
        return wrong("disk", f"{found}: uploads will be refused.", MAKE_ROOM)
    if usage.free < max(LOW_BYTES, LOW_SHARE * usage.total):
        return warning("disk", f"{found}.", MAKE_ROOM)
    if status.f_files and status.f_favail < LOW_SHARE * status.f_files:
        return warning(
            "disk",
            f"{status.f_favail} of {status.f_files} files can still be made for {folder}.",
            MAKE_ROOM,
        )
    return ok("disk", found)


def check_memory(settings: Settings) -> Finding:
    """Compare what all workers may take at once with what there is."""
    may_take = settings.worker_concurrency * settings.job_memory_limit_mb
    there = read_memory_mb()
    found = f"{settings.worker_concurrency} workers may take {settings.job_memory_limit_mb} MB each, of {there} MB"
    if may_take <= there:
        return ok("memory", found)
    fits = max(1, there // settings.job_memory_limit_mb)
    return warning(
        "memory",
        f"{found}: the system may kill them.",
        f"Set WORKER_CONCURRENCY={fits}, or add memory.",
    )


def read_memory_mb() -> int:
    """Return the memory of this machine, or of this container if that has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else ""
    return (min(machine, int(limit)) if limit.isdigit() else machine) // BYTES_PER_MB


def check_open_files() -> Finding:
    """Return the finding on how many files and connections a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        return ok("open files", f"{soft} for each process")
    fix = f"ulimit -n {ENOUGH_FILES * 8}; for systemd: LimitNOFILE={ENOUGH_FILES * 8}"
    return warning("open files", f"Only {soft} for each process: connections will be refused.", fix)
