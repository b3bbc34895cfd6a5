"""The disks that the service writes to."""

from __future__ import annotations

import os
from dataclasses import dataclass

from imageprocessor.settings import Settings


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, in bytes."""

    free_bytes: int
    size_bytes: int


def measure_disks(settings: Settings) -> dict[str, Disk]:
    """Return the disks of ``data`` and, on local storage, of ``storage``.

    One that is not mounted is left out; the health check reports it.
    """
    folders = {"data": settings.data_dir}
    if settings.storage_backend == "local":
        folders["storage"] = settings.storage_path
    disks = {}
    for name, folder in folders.items():
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        disks[name] = Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    return disks
