from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from imageprocessor.errors import StorageFullError, StorageUnavailableError
from imageprocessor.queue import incoming
from imageprocessor.queue.incoming import IncomingFile


@pytest.fixture(autouse=True)
def blocks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 10)


def receive(file: IncomingFile, data: bytes, piece_bytes: int) -> bytes | Path:
    for start in range(0, len(data), piece_bytes):
        file.collect(data[start : start + piece_bytes])
        if file.has_block:
            file.write_block()
    return file.complete()


def test_a_small_file_stays_in_memory(tmp_path: Path) -> None:
    file = IncomingFile(tmp_path / "missing")
    assert receive(file, b"small", 2) == b"small"
    assert file.sha256 == hashlib.sha256(b"small").hexdigest()
    file.remove()


@pytest.mark.parametrize("piece_bytes", [1, 7, 10, 100])
def test_a_large_file_is_on_disk_and_hashed_whole(tmp_path: Path, piece_bytes: int) -> None:
    data = bytes(range(100))
    file = IncomingFile(tmp_path)
    path = receive(file, data, piece_bytes)
    assert isinstance(path, Path)
    assert path.read_bytes() == data
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_remove_ignores_a_file_that_was_moved(tmp_path: Path) -> None:
    file = IncomingFile(tmp_path)
    path = receive(file, bytes(20), 20)
    assert isinstance(path, Path)
    path.rename(tmp_path / "adopted")
    file.remove()
    assert (tmp_path / "adopted").exists()


def test_a_folder_that_cannot_be_written_to_makes_the_storage_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be written"):
        receive(IncomingFile(tmp_path / "missing"), bytes(20), 20)


def test_a_full_disk_makes_the_storage_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = IncomingFile(tmp_path)
    monkeypatch.setattr(file, "_path", Path("/dev/full"))
    with pytest.raises(StorageFullError):
        receive(file, bytes(20), 20)
