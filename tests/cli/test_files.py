from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import typer

from imageprocessor.cli.files import Source, find_sources, plan_outputs, write_file


def touch(*names: str) -> list[Path]:
    for path in map(Path, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [Path(name) for name in names]


def found(*named: str, out: str = "web") -> list[str]:
    sources, _ = find_sources([Path(name) for name in named], Path(out))
    return [str(source.path) for source in sources]


def plan(*named: str, out: str = "web") -> dict[str, list[str]]:
    sources, _ = find_sources([Path(name) for name in named], Path(out))
    planned = plan_outputs(sources, {"small": "webp"}, Path(out))
    return {str(source.path): list(map(str, paths.values())) for source, paths in planned.items()}


def test_folders_are_searched_by_suffix_and_named_files_always_taken() -> None:
    touch("in/a.jpg", "in/b.JPEG", "in/deep/c.png", "in/d.webp", "in/e.gif", "raw")
    touch("in/notes.txt", "in/f.bmp")
    files = ["in/a.jpg", "in/b.JPEG", "in/d.webp", "in/e.gif", "in/deep/c.png", "raw"]
    assert found("in", "raw") == files


def test_file_that_is_named_twice_is_processed_once() -> None:
    touch("in/a.jpg")
    assert found("in/a.jpg", "in", "in/../in/a.jpg") == ["in/a.jpg"]


def test_missing_file_stays_in_the_list_to_be_reported() -> None:
    assert found("missing.jpg") == ["missing.jpg"]


@pytest.mark.parametrize("out", ["in/web", "in/../in/web"])
def test_results_inside_a_searched_folder_are_skipped(out: str) -> None:
    results = touch("in/web/a_small.webp", "in/web/deep/a_small.webp")
    touch("in/a.jpg")
    sources, skipped = find_sources([Path("in")], Path(out))
    assert [source.path for source in sources] == [Path("in/a.jpg")]
    assert [source.path for source in skipped] == results


def test_named_result_is_processed_and_not_skipped() -> None:
    (named,) = touch("web/a.webp")
    sources, skipped = find_sources([named, Path("web")], Path("web"))
    assert ([source.path for source in sources], skipped) == ([named], [])


def test_folders_yield_neither_apple_double_files_nor_pipes_sockets_and_devices() -> None:
    touch("in/a.jpg", "in/._a.jpg")
    os.mkfifo("in/pipe.jpg")
    Path("in/device.png").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("in/socket.webp")
    assert found("in") == ["in/a.jpg"]
    assert found("in", "in/._a.jpg") == ["in/a.jpg", "in/._a.jpg"]


def test_link_that_leads_nowhere_or_in_a_loop_stays_in_the_list_to_be_reported() -> None:
    touch("in/a.jpg")
    Path("in/loop.jpg").symlink_to("loop.jpg")
    Path("in/nowhere.jpg").symlink_to("missing.jpg")
    assert list(plan("in")) == ["in/a.jpg", "in/loop.jpg", "in/nowhere.jpg"]


def test_folders_are_mirrored() -> None:
    touch("in/a.jpg", "in/2024/may/b.jpg")
    assert plan("in") == {
        "in/a.jpg": ["web/a_small.webp"],
        "in/2024/may/b.jpg": ["web/2024/may/b_small.webp"],
    }


def test_sources_that_would_collide_keep_their_full_name() -> None:
    touch("in/a.jpg", "in/a.png", "in/b.png")
    assert plan("in") == {
        "in/a.jpg": ["web/a.jpg_small.webp"],
        "in/a.png": ["web/a.png_small.webp"],
        "in/b.png": ["web/b_small.webp"],
    }


def test_sources_that_still_collide_are_refused() -> None:
    touch("x/a.jpg", "y/a.jpg")
    with pytest.raises(typer.BadParameter, match=r"x/a\.jpg and y/a\.jpg would use"):
        plan("x", "y")


def test_result_that_would_overwrite_a_source_is_refused() -> None:
    touch("a.jpg", "a_small.webp")
    with pytest.raises(typer.BadParameter, match=r"a_small\.webp and a\.jpg would use"):
        plan("a.jpg", "a_small.webp", out=".")


def test_outputs_have_one_path_for_each_size_and_format() -> None:
    names = {"s": "avif", "s.jpeg": "jpeg", "m": "webp"}
    assert Source(Path("a.jpg"), Path("deep")).outputs("a", names, Path("web")) == {
        "s": Path("web/deep/a_s.avif"),
        "s.jpeg": Path("web/deep/a_s.jpg"),
        "m": Path("web/deep/a_m.webp"),
    }


def test_new_file_gets_the_usual_mode_and_leaves_no_draft(folder: Path) -> None:
    (folder / "usual").touch()
    write_file(folder / "new", b"bytes")
    assert (folder / "new").read_bytes() == b"bytes"
    assert (folder / "new").stat().st_mode == (folder / "usual").stat().st_mode
    assert {path.name for path in folder.iterdir()} == {"usual", "new"}


def test_replaced_file_keeps_its_mode_and_a_link_to_it_stays_a_link(folder: Path) -> None:
    (folder / "file").write_bytes(b"old")
    (folder / "file").chmod(0o640)
    (folder / "link").symlink_to("file")
    write_file(folder / "link", b"new")
    assert (folder / "link").is_symlink()
    assert (folder / "file").read_bytes() == b"new"
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["pipe", os.devnull, "link"])
def test_pipe_or_device_is_never_replaced_by_a_file(folder: Path, name: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        write_file(folder / name, b"bytes")
    assert (folder / "pipe").is_fifo()
    assert Path(os.devnull).is_char_device()


def test_failed_write_leaves_nothing(folder: Path) -> None:
    (folder / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(folder / "taken", b"bytes")
    assert [path.name for path in folder.iterdir()] == ["taken"]
