from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.metadata import read_metadata
from tests.cli.conftest import Run
from tests.images import encode, photo, planted_jpeg, planted_png, truncated

GPS_DIRECTORY = 0x8825


@pytest.fixture
def album(folder: Path) -> Path:
    """Folders with good, bad and colliding files."""
    (folder / "album/deep").mkdir(parents=True)
    (folder / "album/a.jpg").write_bytes(encode(photo(900, 600), "JPEG"))
    (folder / "album/a.png").write_bytes(encode(photo(300, 200, seed=1), "PNG"))
    (folder / "album/deep/b.webp").write_bytes(encode(photo(200, 700, seed=2), "WEBP"))
    (folder / "album/cut.jpg").write_bytes(truncated(encode(photo(400, 400), "JPEG"), 0.5))
    (folder / "album/notes.jpg").write_text("not an image")
    (folder / "album/readme.txt").write_text("ignored")
    return folder / "album"


@pytest.fixture
def photo_with_gps(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker\x1b[2J", "Model 7", 6
    exif.get_ifd(GPS_DIRECTORY).update({1: "N", 2: (51.0, 30.0, 26.0), 3: "W", 4: (0.0, 7.0, 39.0)})
    (folder / "photo.jpg").write_bytes(encode(photo(80, 60), "JPEG", exif=exif))
    return folder / "photo.jpg"


def test_process_writes_the_same_bytes_as_the_library(run: Run, album: Path) -> None:
    assert run("process", album, "--out", "web").status == 1
    expected = {}
    for stem, source in {"a.jpg": "a.jpg", "a.png": "a.png", "deep/b": "deep/b.webp"}.items():
        for name, variant in ip.process(album / source).variants.items():
            expected[f"web/{stem}_{name}.webp"] = variant.data
    assert {
        str(path): path.read_bytes() for path in Path("web").rglob("*") if path.is_file()
    } == expected


def test_process_shows_a_row_for_each_file(run: Run, album: Path) -> None:
    ran = run("process", "album", "--out", "web")
    assert "album/a.jpg" in ran.out
    assert "900×600" in ran.out
    assert ip.dominant_color(album / "a.jpg") in ran.out
    assert "not_enlarged" in ran.out
    assert "image/jpeg" in ran.out
    assert ran.err == ""


def test_process_reports_json_lines(run: Run, album: Path) -> None:
    reports = {
        report["file"]: report
        for report in run("process", "album", "--out", "web", "--json").json_lines
    }
    assert set(reports) == {
        "album/a.jpg",
        "album/a.png",
        "album/cut.jpg",
        "album/deep/b.webp",
        "album/notes.jpg",
    }
    good = reports["album/a.jpg"]
    assert (good["width"], good["height"], good["warnings"]) == (900, 600, ["not_enlarged"])
    assert good["size_bytes"] == (album / "a.jpg").stat().st_size
    assert good["variants"]["thumbnail"]["path"] == "web/a.jpg_thumbnail.webp"
    assert (good["variants"]["thumbnail"]["width"], good["variants"]["thumbnail"]["height"]) == (
        150,
        100,
    )
    assert reports["album/notes.jpg"]["error_code"] == "type_unsupported"
    assert reports["album/cut.jpg"]["error_code"] == "image_truncated"


def test_process_takes_sizes_quality_and_limits(run: Run, album: Path) -> None:
    options = ["--size", "card=100", "--size", "wide=250", "--quality", "40"]
    (report,) = run("process", album / "a.jpg", "--out", "web", *options, "--json").json_lines
    assert {name: variant["width"] for name, variant in report["variants"].items()} == {
        "card": 100,
        "wide": 250,
    }
    specs = [
        ip.VariantSpec("card", width=100, quality=40),
        ip.VariantSpec("wide", width=250, quality=40),
    ]
    assert (
        Path("web/a_card.webp").read_bytes()
        == ip.process(album / "a.jpg", specs).variants["card"].data
    )
    for limit, code in (
        ({"--max-megapixels": "0.1"}, "image_too_large"),
        ({"--max-size-mb": "0.001"}, "file_too_large"),
    ):
        ran = run("process", album / "a.jpg", "--out", "web", *next(iter(limit.items())), "--json")
        assert (ran.status, ran.json["error_code"]) == (1, code)


@pytest.mark.parametrize(
    "size", ["card", "card=", "card=0", "card=-1", "Card=3", "../x=3", "=3", "card=4.5"]
)
def test_process_refuses_a_malformed_size(run: Run, album: Path, size: str) -> None:
    ran = run("process", album, "--out", "web", "--size", size)
    assert ran.status == 2
    assert "--size" in ran.err
    assert not Path("web").exists()


def test_process_refuses_two_sizes_with_the_same_name(run: Run, album: Path) -> None:
    assert run("process", album, "--out", "web", "--size", "a=1", "--size", "a=2").status == 2


def test_process_without_images_is_wrong_usage(run: Run, folder: Path) -> None:
    (folder / "empty").mkdir()
    ran = run("process", "empty", "--out", "web")
    assert ran.status == 2
    assert "in empty" in ran.err


def test_process_reports_missing_and_unwritable_files_in_their_rows(run: Run, album: Path) -> None:
    Path("web").mkdir()
    Path("web/a_thumbnail.webp").mkdir()
    reports = run("process", "album/a.jpg", "missing.jpg", "--out", "web", "--json").json_lines
    assert {report["file"]: report["error_code"] for report in reports} == {
        "album/a.jpg": "file_error",
        "missing.jpg": "file_error",
    }


def test_control_characters_in_file_names_are_escaped(run: Run, folder: Path) -> None:
    name = "\x1b[2J\x9b[red].png"
    (folder / name).write_bytes(encode(photo(20, 20), "PNG"))
    for ran in (
        run("process", name, "--out", "web"),
        run("inspect", name),
        run("strip", name, "-o", "clean.png"),
    ):
        assert ran.status == 0
        assert not {"\x1b", "\x9b"} & set(ran.out + ran.err)
        assert r"\x1b[2J\x9b[red].png" in ran.out + ran.err


@pytest.fixture
def busy(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running `process` of many large images that has finished the first one."""
    (folder / "in").mkdir()
    large = encode(photo(3000, 2500), "JPEG")
    for number in range(20):
        (folder / f"in/{number}.jpg").write_bytes(large)
    command = [sys.executable, "-m", "imageprocessor", "process", "in", "--out", "web", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert "error" not in json.loads(process.stdout.readline())
        yield process
        process.kill()


def test_interrupt_ends_process_at_once_and_leaves_no_partial_file(
    busy: subprocess.Popen[str],
) -> None:
    started = time.monotonic()
    os.killpg(busy.pid, signal.SIGINT)
    before = len(list(Path("web").iterdir()))
    _, err = busy.communicate()
    assert (busy.returncode, err) == (130, "")
    assert time.monotonic() - started < 5
    written = list(Path("web").iterdir())
    assert len(written) < 80
    assert len(written) <= before + 4 * (os.cpu_count() or 1), (
        "an image was started after the interrupt"
    )
    assert {path.suffix for path in written} == {".webp"}
    for path in written:
        Image.open(path).load()


def test_strip_writes_the_bytes_of_the_library_and_lists_what_it_removed(
    run: Run, photo_with_gps: Path
) -> None:
    ran = run("strip", "photo.jpg", "-o", "clean.jpg")
    assert (ran.status, ran.out) == (0, "")
    assert Path("clean.jpg").read_bytes() == ip.strip_metadata(photo_with_gps)
    assert ran.err == "photo.jpg: removed gps, exif except orientation, camera\n"
    assert (
        run("strip", "clean.jpg", "-o", "again.jpg").err
        == "clean.jpg: removed nothing: there was no metadata\n"
    )


@pytest.mark.parametrize(("name", "make"), [("a.jpg", planted_jpeg), ("a.png", planted_png)])
def test_strip_reports_json(run: Run, folder: Path, name: str, make: object) -> None:
    assert callable(make)
    (folder / name).write_bytes(make())
    report = run("strip", name, "-o", "clean", "--json").json
    assert (report["file"], report["out"]) == (name, "clean")
    assert {"xmp", "comment"} <= set(report["removed"])
    assert report["stripped_bytes"] == Path("clean").stat().st_size < report["size_bytes"]


def test_strip_to_stdout_writes_only_the_image(run: Run, photo_with_gps: Path) -> None:
    assert run("strip", "photo.jpg", "-o", "-").stdout == ip.strip_metadata(photo_with_gps)
    assert run("strip", "photo.jpg", "-o", "-", "--json").status == 2


def test_strip_into_a_folder_keeps_the_name(run: Run, photo_with_gps: Path, folder: Path) -> None:
    (folder / "clean").mkdir()
    assert run("strip", "photo.jpg", "-o", "clean").status == 0
    assert read_metadata(folder / "clean/photo.jpg").gps is None


def test_strip_overwrites_only_with_force_even_in_place(run: Run, photo_with_gps: Path) -> None:
    before = photo_with_gps.read_bytes()
    ran = run("strip", "photo.jpg", "-o", "photo.jpg")
    assert ran.status == 2
    assert "--force" in ran.err
    assert photo_with_gps.read_bytes() == before
    assert run("strip", "photo.jpg", "-o", "photo.jpg", "--force").status == 0
    assert photo_with_gps.read_bytes() == ip.strip_metadata(before)


def test_strip_of_a_non_image_fails_and_writes_nothing(run: Run, folder: Path) -> None:
    (folder / "notes.jpg").write_text("not an image")
    ran = run("strip", "notes.jpg", "-o", "clean.jpg")
    assert ran.status == 1
    assert ran.err.startswith("error: ")
    assert not Path("clean.jpg").exists()


def test_inspect_shows_place_camera_and_metadata_kinds(run: Run, photo_with_gps: Path) -> None:
    ran = run("inspect", "photo.jpg")
    assert ran.status == 0
    for fact in ("JPEG", "80×60", "Maker[2J Model 7", "51.5072222, -0.1275", "exif"):
        assert fact in ran.out
    assert "\x1b" not in ran.out


def test_inspect_reports_json_lines_and_continues_after_a_bad_file(
    run: Run, photo_with_gps: Path
) -> None:
    ran = run("inspect", "missing.jpg", "photo.jpg", "--json")
    bad, good = ran.json_lines
    assert ran.status == 1
    assert (bad["file"], bad["error_code"]) == ("missing.jpg", "file_error")
    assert good["gps"] == {"latitude": 51.5072222, "longitude": -0.1275}
    assert (good["format"], good["width"], good["height"], good["orientation"]) == (
        "JPEG",
        80,
        60,
        6,
    )


def test_inspect_and_strip_have_no_limits(run: Run, folder: Path) -> None:
    (folder / "wide.png").write_bytes(encode(Image.new("1", (9000, 6000)), "PNG"))
    assert run("inspect", "wide.png").status == 0
    assert run("strip", "wide.png", "-o", "clean.png").status == 0
    assert run("process", "wide.png", "--out", "web").status == 1
