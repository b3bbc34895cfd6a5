from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest

from imageprocessor.core.source import ImageSource, open_source


@pytest.mark.parametrize(
    "data", [b"pixels", bytearray(b"pixels"), memoryview(b"pixels"), io.BytesIO(b"pixels")]
)
def test_bytes_and_files_in_memory_are_read_from_their_start(data: ImageSource) -> None:
    with open_source(data) as file:
        assert file.tell() == 0
        assert file.read() == b"pixels"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_opened_and_closed_again(kind: type[str] | type[Path], tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"pixels")
    with open_source(kind(path)) as file:
        assert file.read() == b"pixels"
    assert file.closed


def test_a_missing_path_is_a_plain_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_source(tmp_path / "absent"):
        pass


def test_pipes_sockets_and_devices_are_refused_without_opening_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path(os.devnull)):
            with pytest.raises(OSError, match="Not a regular file"), open_source(path):
                pass


def test_a_strided_view_is_read_as_the_bytes_it_shows() -> None:
    with open_source(memoryview(b"abcdef")[::2]) as file:
        assert file.read() == b"ace"


def test_a_callers_file_stays_open_and_keeps_its_position(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"pixels")
    with path.open("rb") as own:
        own.seek(4)
        with open_source(own) as file:
            assert file.read() == b"pixels"
        assert own.tell() == 4
        with pytest.raises(OSError, match="write"), open_source(own) as file:
            file.write(b"not writable")
        assert own.read() == b"ls"


@pytest.mark.parametrize("data", [None, 7, io.StringIO("text")])
def test_other_sources_are_refused_with_the_accepted_types(data: ImageSource) -> None:
    with (
        pytest.raises(TypeError, match="Pass bytes, a path, or a file opened in binary mode"),
        open_source(data),
    ):
        pass
