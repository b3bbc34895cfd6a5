from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.storage.files import create_file, replace_file

KILLED = """
import os, sys
from pathlib import Path
from imageprocessor.storage.files import replace_file
Path.replace = lambda *_: os._exit(9)
replace_file(Path(sys.argv[1]), b"new")
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fail(*_: object, **__: object) -> None:
    raise OSError("injected by the test")


@pytest.mark.parametrize(
    "content",
    [b"bytes", bytearray(b"bytes"), BytesIO(b"bytes")],
    ids=["bytes", "bytearray", "file"],
)
def test_file_has_its_content_and_mode_whatever_the_umask(tmp_path: Path, content: Any) -> None:
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "file", content, 0o640)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"bytes"
    assert mode_of(tmp_path / "file") == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o604)
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert mode_of(tmp_path / "file") == 0o604


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="injected"):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_killed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    assert ended.returncode == 9
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_flushes_the_file_and_then_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    flushed: list[Path] = []

    def record(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", record)
    replace_file(tmp_path / "file", b"bytes", durable=durable)
    assert [path.parent for path in flushed] == ([tmp_path, tmp_path.parent] if durable else [])


def test_first_of_many_creators_wins(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda content: create_file(tmp_path / "file", content, 0o600), contents):
            pass
    first = (tmp_path / "file").read_bytes()
    assert first in contents
    create_file(tmp_path / "file", b"late", 0o600)
    assert (tmp_path / "file").read_bytes() == first
    assert mode_of(tmp_path / "file") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
