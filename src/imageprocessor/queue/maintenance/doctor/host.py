"""Checks of this machine: its clock, its disks, its memory, its limits."""

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
LARGE_DIFFERENCE = timedelta(minutes=1)  # leases last only a little longer
WATCHED_SECONDS = 0.1
LOW_BYTES, NO_BYTES = 1_000_000_000, 100_000_000
LOW_SHARE = 0.05
ENOUGH_FILES = 1024
SET_CLOCK = "Run a time service (chrony, systemd-timesyncd) on every host."
FREE_SPACE = "Free some space, or move DATA_DIR, STORAGE_PATH or DATABASE_PATH to a larger disk."


def check_clock(differences: Mapping[str, timedelta]) -> Iterator[Finding]:
    """Yield findings on this machine's clock, which is *differences* ahead of the servers'."""
    started = clock.utc_now()
    started_steady = time.monotonic()
    time.sleep(WATCHED_SECONDS)
    passed = (clock.utc_now() - started).total_seconds()
    drift = abs(passed - (time.monotonic() - started_steady))
    shown = f"{started:%Y-%m-%d %H:%M:%S} UTC"
    if started < PLAUSIBLE_SINCE or drift > WATCHED_SECONDS / 2:
        found = f"It shows {shown}, and drifts by {drift:.3f} s in 0.1 s."
        yield wrong("clock", found, SET_CLOCK)
    elif not differences:
        yield ok("clock", f"{shown}; there is no other clock to compare it with")
    for name, difference in differences.items():
        yield compare_clocks(name, difference)


def compare_clocks(name: str, difference: timedelta) -> Finding:
    """Return the finding on this machine's clock, which is *difference* ahead of *name*'s."""
    seconds = f"{difference.total_seconds():+.1f} s against {name}"
    if abs(difference) > LARGE_DIFFERENCE:
        found = f"{seconds}: hosts take jobs from workers that are still running them."
        return wrong("clock", found, SET_CLOCK)
    if abs(difference) > SMALL_DIFFERENCE:
        return warning("clock", f"{seconds}.", SET_CLOCK)
    return ok("clock", seconds)


def check_space(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each file system that the service stores data on."""
    folders = [settings.data_dir]
    if settings.storage_backend == "local":
        folders.append(settings.storage_path)
    if settings.sqlite_path:
        folders.append(settings.sqlite_path.parent)
    devices: dict[int, Path] = {}
    for folder in folders:  # name each device by its first folder
        device = find_existing(folder).stat().st_dev
        devices.setdefault(device, folder.resolve())
    for folder in devices.values():
        yield check_disk(folder)


def find_existing(folder: Path) -> Path:
    """Return *folder*, or its nearest parent that exists."""
    path = folder.resolve()
    while not path.exists():
        path = path.parent
    return path


def check_disk(folder: Path) -> Finding:
    """Return the finding on the disk that *folder* is on, or will be."""
    path = find_existing(folder)
    usage = shutil.disk_usage(path)
    status = os.statvfs(path)
    found = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free for {folder}"
    if usage.free < NO_BYTES:
        return wrong("disk", f"{found}: uploads will be refused.", FREE_SPACE)
    if usage.free < max(LOW_BYTES, LOW_SHARE * usage.total):
        return warning("disk", f"{found}.", FREE_SPACE)
    if status.f_files and status.f_favail < LOW_SHARE * status.f_files:
        found = f"{status.f_favail} of {status.f_files} files can still be created for {folder}."
        return warning("disk", found, FREE_SPACE)
    return ok("disk", found)


def check_memory(settings: Settings) -> Finding:
    """Return the finding on the memory that all workers together may use."""
    workers = settings.worker_concurrency
    limit_mb = settings.job_memory_limit_mb
    memory_mb = read_memory_mb()
    found = f"{workers} workers may use {limit_mb} MB each, of {memory_mb} MB"
    if workers * limit_mb <= memory_mb:
        return ok("memory", found)
    fits = max(1, memory_mb // limit_mb)
    fix = f"Set WORKER_CONCURRENCY={fits}, or add memory."
    return warning("memory", f"{found}: the system may kill them.", fix)


def read_memory_mb() -> int:
    """Return the memory of this machine, or the limit of this container if that is lower."""
    size_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else ""
    if limit.isdigit():  # otherwise it is "max"
        size_bytes = min(size_bytes, int(limit))
    return size_bytes // BYTES_PER_MB


def check_open_files() -> Finding:
    """Return the finding on how many files and connections a process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        return ok("open files", f"{soft} for each process")
    fix = f"ulimit -n {ENOUGH_FILES * 8}; for systemd: LimitNOFILE={ENOUGH_FILES * 8}"
    return warning("open files", f"Only {soft} for each process: connections will be refused.", fix)
