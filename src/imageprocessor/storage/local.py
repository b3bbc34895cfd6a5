"""Storage of objects as files below a local directory.

A file is written and flushed under ``.tmp``, then renamed into place; then its directory is
flushed. A crash leaves the old object, the new one or a draft in ``.tmp``, never half an object
(Pillai et al., OSDI '14). The directories of a path are opened one by one without following
symbolic links, so that no key leads outside the root.
"""

from __future__ import annotations

import errno
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from imageprocessor.errors import (
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from imageprocessor.storage.files import (
    explain_denied,
    flush_directory,
    may_write,
    replace_file,
    write_draft,
)
from imageprocessor.storage.keys import check_key, is_key
from imageprocessor.storage.protocol import MARKER_NAME, Marker, StoredObject
from imageprocessor.storage.side_by_side import run_side_by_side

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
SCRATCH_NAME = ".tmp"  #: not a valid name in a key
NAMES_AT_A_TIME = 50_000  #: of one folder; they take some 10 MB
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class LocalStorage:
    """A Storage below the directory *root*, which is created if missing (POSIX only).

    ``scratch_directory`` holds drafts. Old files in it were left by a crash and may be deleted.
    Without *creates*, nothing is created until something is stored: call :meth:`create` before.

    Raises:
        StorageUnavailableError: The directory cannot be created or opened.
    """

    def __init__(self, root: Path, *, creates: bool = True) -> None:
        self.root = root.absolute()
        self.scratch_directory = self.root / SCRATCH_NAME
        if creates:
            self.create()

    def create(self) -> None:
        """Create the directory, and the one for drafts in it, if they are missing.

        Raises:
            StorageUnavailableError: They cannot be created or written to.
        """
        if not may_write(self.root):
            raise StorageUnavailableError(
                f"Cannot open the storage directory: {explain_denied(self.root)}"
            )
        with _translate_errors("open the storage directory"):
            _make_directory(self.root)
            with self._open_directory([SCRATCH_NAME], make=True):
                pass

    # These two do not use `replace_file`: it takes a path and would follow symbolic links in it.
    # They rename into a directory that was opened without following any.

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def adopt(self, key: str, path: Path) -> None:
        self._adopt(key, path)

    def put_all(self, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
        """See :meth:`Storage.put_all`.

        Each folder is flushed once: 20 objects of 100 kB take 18 ms; one after another 156 ms. If
        keys share one bytes object, it is written once and linked: three sizes of a small image
        that are equal cost a sixth less CPU time.
        """
        calls: list[Callable[[], None]] = []
        keys_by_data: dict[int, list[str]] = {}
        for key, source in objects.items():
            if isinstance(source, Path):
                calls.append(partial(self._adopt, key, source, flushes_folder=False))
            else:
                keys_by_data.setdefault(id(source), []).append(key)
        for keys in keys_by_data.values():
            data = objects[keys[0]]
            assert isinstance(data, bytes)
            calls.append(partial(self._put_copies, keys, data))
        run_side_by_side(calls, pool)
        folders = {tuple(key.split("/")[:-1]) for key in objects}
        with _translate_errors("flush the storage directory"):
            for names in folders:
                with self._open_directory(names) as directory:
                    os.fsync(directory)

    def _put(self, key: str, data: bytes, *, flushes_folder: bool = True) -> None:
        *names, name = check_key(key).split("/")
        draft_name = f"{time.time_ns():x}-{threading.get_native_id():x}"
        draft = self.scratch_directory / draft_name
        with (
            _translate_errors(f"store {key!r}"),
            self._open_directory(names, make=True) as directory,
        ):
            try:
                write_draft(draft, data, FILE_MODE)
                os.replace(draft, name, dst_dir_fd=directory)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            if flushes_folder:
                os.fsync(directory)

    def _put_copies(self, keys: Sequence[str], data: bytes) -> None:
        """Store *data* under each of *keys*, as links to one file; flush no folder."""
        first, *others = keys
        self._put(first, data, flushes_folder=False)
        for key in others:
            try:
                self._link(first, key)
            except StorageError:  # it exists, or the file system has no links
                self._put(key, data, flushes_folder=False)

    def _link(self, existing: str, key: str) -> None:
        *names, name = check_key(key).split("/")
        with (
            self._find(existing, "link") as (source, source_name),
            self._open_directory(names, make=True) as directory,
        ):
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory)

    def _adopt(self, key: str, path: Path, *, flushes_folder: bool = True) -> None:
        *names, name = check_key(key).split("/")
        with _translate_errors(f"store a file as {key!r}"):
            try:
                with self._open_directory(names, make=True) as directory:
                    _prepare_adopted(path)
                    os.replace(path, name, dst_dir_fd=directory)
                    if flushes_folder:
                        os.fsync(directory)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # A file on another file system cannot be renamed: copy it.
                self._put(key, path.read_bytes(), flushes_folder=flushes_folder)
                path.unlink()

    def get(self, key: str) -> bytes:
        with self._find(key, "read") as (directory, name), _open_file(name, directory) as file:
            return file.read()

    def delete(self, key: str, *, durable: bool = True) -> None:
        with suppress(ObjectNotFoundError), self._find(key, "delete") as (directory, name):
            os.unlink(name, dir_fd=directory)
            if durable:
                os.fsync(directory)

    def exists(self, key: str) -> bool:
        with suppress(ObjectNotFoundError), self._find(key, "look up") as (directory, name):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            return S_ISREG(status.st_mode)
        return False

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        folder = prefix.rpartition("/")[0]
        if folder and not is_key(folder):
            return
        names = folder.split("/") if folder else []
        head = f"{folder}/" if folder else ""
        after = ""
        if start_after.startswith(head):
            after = start_after.removeprefix(head)
        elif start_after > head:
            return
        with (
            _translate_errors("list the stored objects"),
            suppress(FileNotFoundError, NotADirectoryError),  # no key starts with the prefix
            self._open_directory(names) as directory,
        ):
            for found in _walk(directory, head, after):
                if found.key.startswith(prefix):
                    yield found

    def url(self, key: str) -> str:
        return (self.root / check_key(key)).as_uri()

    def read_markers(self) -> Sequence[Marker]:
        path = self.root / MARKER_NAME
        owner = None
        with _translate_errors(f"read {path}"), suppress(FileNotFoundError):
            owner = path.read_text(encoding="utf-8", errors="replace").strip()
        return [Marker("", str(path), owner)]

    def write_marker(self, prefix: str, owner: str) -> None:  # noqa: ARG002 - there is only one
        self.create()
        path = self.root / MARKER_NAME
        with _translate_errors(f"write {path}"):
            replace_file(path, f"{owner}\n".encode(), FILE_MODE)

    @contextmanager
    def _find(self, key: str, action: str) -> Iterator[tuple[int, str]]:
        """Open an object's directory; translate errors, including those of the caller's block."""
        *names, name = check_key(key).split("/")
        with _translate_errors(f"{action} {key!r}"):
            try:
                with self._open_directory(names) as directory:
                    yield directory, name
            except OSError as error:
                if error.errno in _NO_FILE:
                    raise ObjectNotFoundError(f"Nothing is stored under {key!r}.") from error
                raise

    @contextmanager
    def _open_directory(self, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        descriptor = self._open_top(names[0], make=make) if names else self._open_root()
        try:
            for name in names[1:]:
                parent = descriptor
                descriptor = _open_child(name, parent, make=make)
                os.close(parent)
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_top(self, name: str, *, make: bool) -> int:
        """Open a directory in the root; open the root itself only if that directory is missing."""
        with suppress(FileNotFoundError):
            return os.open(self.root / name, _DIRECTORY | os.O_NOFOLLOW)
        root = self._open_root()
        try:
            return _open_child(name, root, make=make)
        finally:
            os.close(root)

    def _open_root(self) -> int:
        try:
            return os.open(self.root, _DIRECTORY)
        except FileNotFoundError as error:
            raise StorageUnavailableError(
                "The storage directory is missing. Check that its disk is mounted."
            ) from error


@contextmanager
def _translate_errors(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFullError(
                f"No space is left to {action}. Make room or raise the quota."
            ) from error
        raise StorageUnavailableError(
            f"Cannot {action}: {error.strerror}. "
            "Check the storage directory, its owner and its disk."
        ) from error


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        flush_directory(path.parent)


def _open_child(name: str, parent: int, *, make: bool) -> int:
    """Open the directory *name* in an open *parent*; refuse a symbolic link."""
    flags = _DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
    os.fsync(parent)
    return os.open(name, flags, dir_fd=parent)


def _open_file(name: str, directory: int) -> BinaryIO:
    """Open the file *name* in an open *directory* for reading; refuse a symbolic link."""

    def open_in_directory(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, dir_fd=directory)

    return open(name, "rb", opener=open_in_directory)


def _prepare_adopted(path: Path) -> None:
    """Set our mode on a file that other code wrote, and flush it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(directory: int, head: str, start_after: str) -> Iterator[StoredObject]:
    """Yield the objects below an open *directory*, sorted by key.

    *head* precedes the names in *directory* in keys, but not in *start_after*.
    """
    # A resumed listing continues inside this folder.
    resumed, slash, rest = start_after.partition("/")
    if slash:
        yield from _walk_child(directory, resumed, head, rest)
        start_after = f"{resumed}/"
    while names := _list_names(directory, start_after):
        for name in names:
            if name.endswith("/"):
                yield from _walk_child(directory, name.removesuffix("/"), head, "")
            else:
                yield from _describe(directory, name, head)
        start_after = names[-1]


def _list_names(directory: int, start_after: str) -> list[str]:
    """Return the next names in an open *directory*, in the order of the keys that they lead to.

    Folders end in a slash. Memory is bounded, because a folder may have millions of names; it is
    read once for each NAMES_AT_A_TIME of them.
    """
    with os.scandir(directory) as entries:
        names = (
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
        )
        later = (name for name in names if name > start_after)
        return heapq.nsmallest(NAMES_AT_A_TIME, later)


def _walk_child(directory: int, name: str, head: str, start_after: str) -> Iterator[StoredObject]:
    """Yield the objects below the folder *name* in an open *directory*."""
    if not is_key(name):
        return
    try:
        child = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno in _NO_FILE:  # removed meanwhile
            return
        raise
    try:
        yield from _walk(child, f"{head}{name}/", start_after)
    finally:
        os.close(child)


def _describe(directory: int, name: str, head: str) -> Iterator[StoredObject]:
    """Yield the object *name* in an open *directory*, if it is one and still there."""
    key = head + name
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if S_ISREG(status.st_mode) and is_key(key):
            modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
            yield StoredObject(key, status.st_size, modified_at)
