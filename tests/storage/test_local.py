from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.errors import (
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from imageprocessor.storage import local
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.side_by_side import open_store_pool
from tests.storage.contract import KEY, StorageContract

MEGABYTE = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "storage")


def test_objects_survive_reopening(store: LocalStorage) -> None:
    store.put(KEY, b"bytes")
    assert LocalStorage(store.root).get(KEY) == b"bytes"


def test_url_points_to_the_file(store: LocalStorage) -> None:
    store.put(KEY, b"bytes")
    assert store.url(KEY) == f"file://{store.root}/{KEY}"
    assert (store.root / KEY).read_bytes() == b"bytes"


def test_a_relative_root_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStorage(Path("storage"))
    store.put(KEY, b"bytes")
    monkeypatch.chdir("/")
    assert store.get(KEY) == b"bytes"


# Durability


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record flushes and renames in order; they still take effect."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        done.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def recording_replace(source: str, target: str, **directories: Any) -> None:
        done.append(("replace", target))
        replace(source, target, **directories)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    return done


def test_put_flushes_the_file_then_renames_it_then_flushes_its_directory(
    store: LocalStorage, steps: list[tuple[str, str]]
) -> None:
    store.put("avatars/1", b"bytes")
    assert steps[0] == ("fsync", str(store.root)), "the parent of a new directory is flushed"
    assert steps[1][0] == "fsync"
    assert Path(steps[1][1]).parent == store.scratch_directory
    assert steps[2:] == [("replace", "1"), ("fsync", str(store.root / "avatars"))]


def test_adopt_flushes_the_file_then_renames_it_then_flushes_its_directory(
    store: LocalStorage, steps: list[tuple[str, str]]
) -> None:
    upload = store.scratch_directory / "upload"
    upload.write_bytes(b"bytes")
    store.adopt("1", upload)
    assert steps == [("fsync", str(upload)), ("replace", "1"), ("fsync", str(store.root))]


def test_delete_is_flushed(store: LocalStorage, steps: list[tuple[str, str]]) -> None:
    store.put("1", b"bytes")
    steps.clear()
    store.delete("1")
    assert steps == [("fsync", str(store.root))]


def test_delete_is_not_flushed_unless_it_must_be_durable(
    store: LocalStorage, steps: list[tuple[str, str]]
) -> None:
    store.put("1", b"bytes")
    steps.clear()
    store.delete("1", durable=False)
    assert steps == []


def test_a_new_root_is_flushed_into_its_parents(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    LocalStorage(tmp_path / "a" / "b")
    assert steps == [
        ("fsync", str(path)) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")
    ]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EIO, StorageUnavailableError),
        (errno.EROFS, StorageUnavailableError),
    ],
)
def test_a_failed_put_keeps_the_old_object_and_leaves_no_draft(
    store: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[StorageError],
) -> None:
    store.put(KEY, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(expected, match=KEY):
            store.put(KEY, b"new")
    assert store.get(KEY) == b"old"
    assert files_below(store.root) == [store.root / KEY]


def test_killing_the_writer_leaves_a_whole_object(store: LocalStorage) -> None:
    versions = [bytes([number]) * MEGABYTE for number in range(2)]
    store.put(KEY, versions[0])
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from imageprocessor.storage.local import LocalStorage\n"
        "store = LocalStorage(Path(sys.argv[1]))\n"
        "print(flush=True)\n"
        "while True:\n"
        f"    store.put({KEY!r}, bytes([1]) * {MEGABYTE})\n"
        f"    store.put({KEY!r}, bytes([0]) * {MEGABYTE})\n"
    )
    for reads in (0, 50, 100, 150, 200):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            assert all(store.get(KEY) in versions for _ in range(reads))
            writer.kill()
        assert store.get(KEY) in versions
        assert [found.key for found in store.list()] == [KEY]


# A disk that is full, read-only or missing


def test_full_disk_is_reported_and_keeps_the_object(small_disk: Path) -> None:
    store = LocalStorage(small_disk / "storage")
    store.put(KEY, b"old" * 1000)
    with pytest.raises(StorageFullError, match=f"No space is left to store '{KEY}'"):
        store.put(KEY, bytes(2 * MEGABYTE))
    assert store.get(KEY) == b"old" * 1000
    assert files_below(store.root) == [store.root / KEY]
    store.put(KEY, bytes(MEGABYTE // 2))


def test_adopt_onto_a_full_disk_keeps_the_file(small_disk: Path, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(2 * MEGABYTE))
    store = LocalStorage(small_disk / "storage")
    with pytest.raises(StorageFullError):
        store.adopt(KEY, upload)
    assert upload.stat().st_size == 2 * MEGABYTE
    assert files_below(store.root) == []


def test_a_file_on_another_file_system_is_adopted(small_disk: Path, store: LocalStorage) -> None:
    upload = small_disk / "upload"
    upload.write_bytes(b"bytes")
    store.adopt(KEY, upload)
    assert store.get(KEY) == b"bytes"
    assert not upload.exists()


def test_read_only_disk_refuses_writes_but_not_reads(small_disk: Path) -> None:
    store = LocalStorage(small_disk / "storage")
    store.put(KEY, b"bytes")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    writes: list[Callable[[], None]] = [lambda: store.put(KEY, b"new"), lambda: store.delete(KEY)]
    for write in writes:
        with pytest.raises(StorageUnavailableError, match="Read-only"):
            write()
    assert store.get(KEY) == b"bytes"


def test_a_missing_root_is_unavailable_rather_than_empty(store: LocalStorage) -> None:
    store.root.rename(store.root.with_name("elsewhere"))
    uses: list[Callable[[], object]] = [
        lambda: store.get(KEY),
        lambda: store.exists(KEY),
        lambda: store.delete(KEY),
        lambda: list(store.list()),
        lambda: store.put(KEY, b"bytes"),
    ]
    for use in uses:
        with pytest.raises(StorageUnavailableError):
            use()


def test_a_root_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match="Cannot open the storage directory"):
        LocalStorage(tmp_path / "file" / "storage")


def test_no_file_stays_open(store: LocalStorage, tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    store.put("avatars/1", b"bytes")
    for key in ("avatars", "avatars/1/2", "absent/1"):
        with pytest.raises(ObjectNotFoundError):
            store.get(key)
        with pytest.raises(StorageUnavailableError):
            store.adopt(key, tmp_path)
    assert len(list(open_files.iterdir())) == before


# Modes


def test_directories_are_0750_and_files_0640(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        store = LocalStorage(tmp_path / "storage")
        store.put("avatars/put", b"bytes")
        upload = store.scratch_directory / "upload"
        upload.touch(0o600)
        store.adopt("avatars/adopted", upload)
    finally:
        os.umask(umask)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [store.root, *store.root.rglob("*")]
    }
    assert modes == {
        "storage": 0o750,
        ".tmp": 0o750,
        "avatars": 0o750,
        "put": 0o640,
        "adopted": 0o640,
    }


def test_the_umask_does_not_hide_files_from_the_group(store: LocalStorage) -> None:
    umask = os.umask(0o077)
    try:
        store.put("1", b"bytes")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((store.root / "1").stat().st_mode) == 0o640


# Files in the tree that are not objects


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "outside" / "secret"
    path.parent.mkdir()
    path.write_bytes(b"secret")
    return path


def test_a_linked_directory_is_not_entered(store: LocalStorage, secret: Path) -> None:
    (store.root / "avatars").symlink_to(secret.parent)
    assert not store.exists("avatars/secret")
    with pytest.raises(ObjectNotFoundError):
        store.get("avatars/secret")
    store.delete("avatars/secret")
    with pytest.raises(StorageUnavailableError):
        store.put("avatars/new", b"bytes")
    assert list(store.list()) == []
    assert list(store.list("avatars/")) == []
    assert files_below(secret.parent) == [secret]
    assert secret.read_bytes() == b"secret"


def test_a_linked_file_is_not_followed(store: LocalStorage, secret: Path) -> None:
    link = store.root / "1"
    link.symlink_to(secret)
    assert not store.exists("1")
    assert list(store.list()) == []
    with pytest.raises(ObjectNotFoundError):
        store.get("1")
    store.put("1", b"new")
    assert (secret.read_bytes(), store.get("1"), link.is_symlink()) == (b"secret", b"new", False)


def test_deleting_a_linked_file_spares_its_target(store: LocalStorage, secret: Path) -> None:
    (store.root / "1").symlink_to(secret)
    store.delete("1")
    assert secret.exists()


def test_a_link_is_not_adopted(store: LocalStorage, secret: Path) -> None:
    link = store.scratch_directory / "upload"
    link.symlink_to(secret)
    with pytest.raises(StorageUnavailableError):
        store.adopt("1", link)
    assert not store.exists("1")


def test_a_linked_scratch_directory_is_refused(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "storage"
    root.mkdir()
    (root / ".tmp").symlink_to(secret.parent)
    with pytest.raises(StorageUnavailableError):
        LocalStorage(root)


def test_a_linked_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "storage").symlink_to(tmp_path / "disk")
    LocalStorage(tmp_path / "storage").put("1", b"bytes")
    assert (tmp_path / "disk" / "1").read_bytes() == b"bytes"


def test_large_folder_is_listed_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "NAMES_AT_A_TIME", 5000)
    store = LocalStorage(tmp_path / "storage")
    folder = store.root / "avatars" / "processed"
    folder.mkdir(parents=True)
    for number in range(25_000):
        os.mknod(folder / f"{number:05}.webp")
    seen = []
    place = ""
    peak_bytes = 0
    tracemalloc.start()
    while page := list(islice(store.list(start_after=place), 5000)):
        place = page[-1].key
        seen += [stored.key for stored in page]
        if len(seen) == 10_000:
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert seen == [f"avatars/processed/{number:05}.webp" for number in range(25_000)]
    assert 0 < peak_bytes < 3_000_000, "25 000 objects take 7 MB"


def test_list_skips_drafts_and_names_that_are_not_keys(store: LocalStorage) -> None:
    store.put("avatars/1", b"bytes")
    (store.scratch_directory / "draft").write_bytes(b"half")
    (store.root / "avatars" / "my photo.jpg").write_bytes(b"bytes")
    (store.root / ".DS_Store").write_bytes(b"bytes")
    os.mkfifo(store.root / "pipe")
    assert [found.key for found in store.list()] == ["avatars/1"]


def test_equal_variants_are_links_to_one_file(store: LocalStorage) -> None:
    data = b"of a small image"
    keys = [f"photos/processed/{size}/1_{size}.webp" for size in ("medium", "large", "original")]
    store.put(keys[1], b"of an earlier attempt")
    with open_store_pool() as pool:
        store.put_all(dict.fromkeys(keys, data), pool)
    assert [store.get(key) for key in keys] == [data] * 3
    files = [(store.root / key).stat().st_ino for key in keys]
    assert files[0] == files[2]
