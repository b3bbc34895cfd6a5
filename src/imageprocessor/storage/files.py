"""Atomic file writes: even after a crash, a file is complete or absent."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1024 * 1024


def replace_file(
    path: Path, content: bytes | BinaryIO, mode: int | None = None, *, durable: bool = True
) -> None:
    """Write *content* to *path*; on an error, an existing file stays as it is.

    Without a *mode*, the file keeps the mode of the one it replaces; a new file gets the umask's
    default. If *durable*, the file survives a power cut once this returns.
    """
    draft = _draft_path(path)
    try:
        write_draft(draft, content, mode, durable=durable)
        if mode is None and path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if durable:
        flush_directory(path.parent)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write *content* to *path*, durably, unless a file exists: the first writer wins."""
    draft = _draft_path(path)
    try:
        write_draft(draft, content, mode)
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, never replaces a file
    finally:
        draft.unlink(missing_ok=True)
    flush_directory(path.parent)


def write_draft(
    path: Path, content: bytes | BinaryIO, mode: int | None = None, *, durable: bool = True
) -> None:
    """Write a new file at *path*, which the caller renames, or removes on an error.

    A *mode* is set regardless of the umask.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    first_mode = 0o666 if mode is None else mode
    descriptor = os.open(path, flags, first_mode)
    try:
        if isinstance(content, bytes | bytearray | memoryview):
            _write_all(descriptor, content)
        else:
            while block := content.read(BLOCK_BYTES):
                _write_all(descriptor, block)
        if mode is not None:
            os.fchmod(descriptor, mode)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def may_write(path: Path) -> bool:
    """Return whether this process may write to *path*, or may create it."""
    place = _find_existing(path)
    mode = os.R_OK | os.W_OK
    if place.is_dir():
        mode |= os.X_OK
    return _permits(place, mode)


def explain_denied(path: Path) -> str:
    """Return why this process may not write to *path*, and what to do about it."""
    place = _find_existing(path)
    owner = place.stat().st_uid
    user, group = os.geteuid(), os.getegid()
    if owner == user:
        return (
            f"{place} is not writable. Check its mode, and that its disk is not mounted read-only."
        )
    cause = f"{place} belongs to uid {owner}, but this process runs as uid {user}."
    if place != path.absolute():
        command = f"mkdir -p {path.absolute()} && chown {user}:{group} {path.absolute()}"
        return f"{path.absolute()} does not exist, and {cause} Run as root: {command}"
    return f"{cause} Run it as that user, or run as root: chown -R {user}:{group} {place}"


def flush_directory(path: Path) -> None:
    """Flush the directory *path*, so that its entries are durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_existing(path: Path) -> Path:
    """Return *path*, or its nearest parent that exists."""
    place = path.absolute()
    while not _permits(place, os.F_OK):
        place = place.parent
    return place


def _permits(path: Path, mode: int) -> bool:
    """Return whether *path* exists, may be reached, and permits *mode* to this process."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _draft_path(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.part")


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of *data* without a file object.

    A file object makes three more system calls per small upload. Each releases the GIL; together
    they cost 87 µs of CPU time (``python -m benchmarks service``, upload of 100 KB).
    """
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest)
        rest = rest[written:]
