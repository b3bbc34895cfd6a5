from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imageprocessor as ip
from imageprocessor.cli.output import show_bytes
from imageprocessor.core.metadata import read_metadata
from tests.cli.conftest import Ran, Run
from tests.conftest import require_program
from tests.images import apng, encode, photo, planted_jpeg, planted_png, truncated

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


def test_process_shows_the_source_each_result_and_what_was_removed(
    run: Run, album: Path, photo_with_gps: Path
) -> None:
    ran = run("process", "album", photo_with_gps.name, "--out", "web")
    rows = {line.split()[0]: line for line in ran.out.splitlines()[3:] if line.strip()}
    result = ip.process(album / "a.jpg")
    sizes = [f"{name} {show_bytes(made.size_bytes)}" for name, made in result.variants.items()]
    source = f"900×600, {show_bytes((album / 'a.jpg').stat().st_size)}"
    row = re.split(r"\s{3,}", rows["album/a.jpg"].strip())
    assert row[1:3] == [source, ", ".join(sizes)]
    assert row[3:] == [f"██ {result.dominant_color}", "nothing", "not_enlarged"]
    assert "exif, gps" in rows["photo.jpg"]
    assert "image/jpeg" in rows["album/notes.jpg"]
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


def test_animations_are_kept_if_asked(run: Run, folder: Path) -> None:
    (folder / "a.png").write_bytes(apng(4))
    options = ["--size", "card=20", "--animation", "keep", "--out", "web", "--json"]
    (report,) = run("process", folder / "a.png", *options).json_lines
    assert (report["variants"]["card"]["frames"], report["warnings"]) == (4, [])
    with Image.open("web/a_card.webp") as image:
        assert getattr(image, "n_frames", 1) == 4
    formats = ["--format", "avif", "--format", "webp"]
    (report,) = run("process", folder / "a.png", *options, *formats, "--force").json_lines
    assert report["variants"]["card"]["path"] == "web/a_card.webp"
    assert list(Path("web").iterdir()) == [Path("web/a_card.webp")]
    ran = run("transform", folder / "a.png", "w_20,anim_keep", "-o", "b.webp", "--json")
    assert (ran.json["frames"], ran.json["duration_seconds"]) == (4, 0.16)
    assert Path("b.webp").read_bytes() == Path("web/a_card.webp").read_bytes()
    ran = run("process", folder / "a.png", *options, "--max-frames", "3", "--force")
    assert (ran.status, ran.json["error_code"]) == (1, "animation_too_long")


@pytest.mark.parametrize("quality", ["0", "101", "8.5", "best", ""])
def test_process_refuses_a_wrong_quality(run: Run, album: Path, quality: str) -> None:
    ran = run("process", album, "--out", "web", "--quality", quality)
    assert ran.status == 2
    assert f"{quality!r} is not a whole number" in ran.err


def test_process_finds_a_quality_and_transform_takes_a_bound(run: Run, album: Path) -> None:
    options = ["--size", "card=60", "--quality", "auto", "--json"]
    (report,) = run("process", album / "a.jpg", "--out", "web", *options).json_lines
    auto = ip.VariantSpec("card", width=60, quality="auto")
    expected = ip.process(album / "a.jpg", [auto]).variants["card"]
    assert report["variants"]["card"]["size_bytes"] == expected.size_bytes
    run("transform", album / "a.jpg", "w_60,bytes_900", "-o", "card.webp")
    assert Path("card.webp").stat().st_size <= 900


def test_transform_reports_warnings(run: Run, album: Path) -> None:
    command = ["transform", album / "a.jpg", "w_60,bytes_9", "-o", "card.webp", "--force"]
    assert run(*command).err.endswith(", max_bytes_exceeded\n")
    assert run(*command, "--json").json["warnings"] == ["max_bytes_exceeded"]


def test_process_takes_lossless_and_a_bound_on_the_bytes(run: Run, album: Path) -> None:
    command = ["process", album / "a.jpg", "--out", "web", "--size", "card=60", "--json", "-f"]

    def check(*options: str, **fields: Any) -> list[str]:
        """Check that *options* mean the same as *fields* of a size; return the warnings."""
        (report,) = run(*command, *options).json_lines
        spec = ip.VariantSpec("card", width=60, **fields)
        expected = ip.process(album / "a.jpg", [spec])
        assert Path("web/a_card.webp").read_bytes() == expected.variants["card"].data
        assert report["warnings"] == list(expected.warnings)
        return list(expected.warnings)

    assert check("--max-bytes", "900", max_bytes=900) == []
    assert Path("web/a_card.webp").stat().st_size <= 900
    assert check("--max-bytes", "9", max_bytes=9) == ["max_bytes_exceeded"]
    assert check("--lossless", lossless=True) == []
    large = Path("web/a_card.webp").stat().st_size
    assert check("--no-lossless", lossless=False) == []
    assert Path("web/a_card.webp").stat().st_size < large


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lossless", "--format", "avif"], "lossless needs the format 'webp' or 'png'. Add one"),
        (["--animation", "keep", "--format", "jpeg"], "'keep' needs the format 'webp'. Add it"),
        (["--max-bytes", "0"], "Invalid value for '--max-bytes'"),
        (["--max-bytes", "1000000000"], "Use a whole number of bytes, from 1 to 999999999."),
        (["--max-bytes", "5kB"], "Invalid value for '--max-bytes'"),
    ],
)
def test_process_refuses_options_that_no_size_can_have(
    run: Run, album: Path, options: list[str], message: str
) -> None:
    ran = run("process", album, "--out", "web", *options)
    assert ran.status == 2
    assert message in end_of(ran)
    assert not Path("web").exists()


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


def test_process_reports_what_may_not_be_read_in_a_row_each(album: Path) -> None:
    (album / "closed").mkdir()
    for path in (album / "shut.jpg", album / "closed/c.jpg"):
        path.write_bytes(b"")
    for path in (album / "shut.jpg", album / "closed"):
        path.chmod(0)
    command = [sys.executable, "-m", "imageprocessor", "process", "album", "album/closed/c.jpg"]
    if os.geteuid() == 0:  # root may read everything, unless it gives up that right
        rights = "--bounding-set=-dac_override,-dac_read_search"
        command = [require_program("setpriv"), rights, *command]
    options = ["--out", "web", "--size", "card=40", "--json"]
    ran = subprocess.run([*command, *options], capture_output=True, check=False)
    (album / "closed").chmod(0o700)
    reports = {report["file"]: report for report in map(json.loads, ran.stdout.splitlines())}
    closed = ("album/closed", "album/closed/c.jpg", "album/shut.jpg")
    assert [reports[file]["error"] for file in closed] == ["Permission denied"] * 3
    assert "error" not in reports["album/a.jpg"]
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("command", ["process", "inspect"])
def test_pipe_is_refused_in_its_row_without_waiting(run: Run, album: Path, command: str) -> None:
    os.mkfifo("pipe.jpg")
    options = ["--out", "web", "--json"] if command == "process" else ["--json"]
    bad, good = sorted(
        run(command, "pipe.jpg", "album/a.jpg", *options).json_lines,
        key=lambda report: "error" not in report,
    )
    assert (bad["file"], bad["error_code"]) == ("pipe.jpg", "file_error")
    assert good["file"] == "album/a.jpg"


def test_transform_writes_the_same_bytes_as_the_library(run: Run, album: Path) -> None:
    (album / "mark.png").write_bytes(encode(photo(20, 20), "PNG"))
    text = "h_60,w_80,fit_cover,g_auto,sepia_1,wm_us:se:50:20"
    mark = f"us={album / 'mark.png'}"
    ran = run("transform", album / "a.jpg", text, "-o", "card.webp", "--watermark", mark)
    expected = ip.transform(album / "a.jpg", text, watermarks={"us": album / "mark.png"})
    assert Path("card.webp").read_bytes() == expected.data
    assert ran.err == f"{album / 'a.jpg'}: 80×60, {show_bytes(expected.size_bytes)}\n"


def test_transform_reports_the_canonical_operations_as_json(run: Run, album: Path) -> None:
    ran = run("transform", album / "a.jpg", "blur_2,w_90", "-o", "album", "--json")
    [report] = ran.json_lines
    assert report["operations"] == "w_90,blur_2"
    assert (report["out"], report["width"], report["height"]) == ("album/a.webp", 90, 60)
    assert Path("album/a.webp").stat().st_size == report["size_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoom_2", "-o", "x.webp"], "Unknown operation 'zoom_2'"),
        (["blur_900", "-o", "x.webp"], "blur is '900'"),
        (["w_90", "-o", "x.gif"], "the suffix names no format"),
        (["w_90", "-o", "x.png", "--format", "avif"], "x.png does not have the suffix .avif"),
        (["w_90", "-o", "x.png", "--format", "gif"], "'gif' is not a format of results"),
        (["w_90", "-o", "x.webp", "--watermark", "logo"], "is not NAME=FILE"),
        (["w_90", "-o", "x.webp", "--watermark", "logo=missing.png"], "is not NAME=FILE"),
        (["w_90", "-o", "-", "--json"], "cannot both go to stdout"),
    ],
)
def test_transform_refuses_wrong_usage_before_it_starts(
    run: Run, album: Path, arguments: list[str], message: str
) -> None:
    ran = run("transform", album / "a.jpg", *arguments)
    assert ran.status == 2
    assert message in " ".join(ran.err.split())
    assert not Path("x.webp").exists()
    assert not Path("x.png").exists()
    assert not Path("x.gif").exists()


@pytest.mark.parametrize(
    ("options", "name", "output"),
    [
        (["-o", "x.avif"], "x.avif", "avif"),
        (["-o", "x.JPEG"], "x.JPEG", "jpeg"),
        (["-o", "x.png", "--format", "png"], "x.png", "png"),
        (["-o", "album", "--format", "avif"], "album/a.avif", "avif"),
    ],
)
def test_transform_takes_the_format_from_the_suffix_or_the_option(
    run: Run, album: Path, options: list[str], name: str, output: str
) -> None:
    assert run("transform", album / "a.jpg", "w_30", *options).status == 0
    expected = ip.transform(album / "a.jpg", "w_30", format=output)
    assert Path(name).read_bytes() == expected.data


def test_process_makes_each_size_in_each_format(run: Run, album: Path) -> None:
    options = ["--size", "card=40", "--format", "avif", "--format", "jpeg", "--json"]
    (report,) = run("process", album / "a.jpg", "--out", "web", *options).json_lines
    card = report["variants"]["card"]
    [alternate] = card["alternates"]
    assert (card["path"], card["format"]) == ("web/a_card.avif", "avif")
    assert (alternate["path"], alternate["format"]) == ("web/a_card.jpg", "jpeg")
    spec = ip.VariantSpec("card", width=40, formats=("avif", "jpeg"))
    expected = ip.process(album / "a.jpg", [spec]).variants["card"]
    assert Path("web/a_card.avif").read_bytes() == expected.data
    assert Path("web/a_card.jpg").read_bytes() == expected.alternates[0].data
    shown = run("process", album / "a.jpg", "--out", "web", *options[:-1], "--force").out
    assert "card.jpeg" in shown
    refused = run("process", album / "a.jpg", "--out", "-", *options[:-1])
    assert "stdout takes one file" in end_of(refused)


def test_transform_fails_if_the_operations_do_not_suit_the_image(run: Run, album: Path) -> None:
    ran = run("transform", album / "a.jpg", "crop_0:0:901:1", "-o", "x.webp")
    assert ran.status == 1
    assert "crop 0:0:901:1 is not within the image of 900 x 600 pixels" in ran.err
    assert not Path("x.webp").exists()


def test_strip_of_a_pipe_fails_without_waiting(run: Run) -> None:
    os.mkfifo("pipe.jpg")
    assert run("strip", "pipe.jpg", "-o", "clean.jpg").status == 1
    assert not Path("clean.jpg").exists()


def test_process_overwrites_only_with_force(run: Run, album: Path) -> None:
    options = [album / "a.jpg", album / "a.png", "--out", "web", "--size", "card=40"]
    assert run("process", *options).status == 0
    Path("web/a.jpg_card.webp").unlink()
    Path("web/a.png_card.webp").write_bytes(b"mine")
    ran = run("process", *options)
    assert ran.status == 2
    assert not Path("web/a.jpg_card.webp").exists()
    assert Path("web/a.png_card.webp").read_bytes() == b"mine"
    stripped = run("strip", album / "a.png", "-o", "web/a.png_card.webp")
    assert (stripped.status, end_of(stripped)) == (2, end_of(ran))
    assert end_of(ran).endswith("web/a.png_card.webp exists. Choose another place, or add --force.")
    assert run("process", *options, "--force").status == 0
    assert Path("web/a.png_card.webp").read_bytes().startswith(b"RIFF")


def end_of(ran: Ran) -> str:
    """Return the message in the box that ends *ran*, on one line."""
    return " ".join(word for word in ran.err.partition("Error")[2].split() if word.strip("─│╭╮╰╯"))


def test_process_into_the_same_folder_names_what_it_skips(run: Run, album: Path) -> None:
    ran = run("process", "album", "--out", "album")
    assert ran.status == 2
    assert "all images in album are in album" in end_of(ran)
    (album / "web").mkdir()
    (album / "web/a_card.webp").write_bytes(b"")
    ran = run("process", "album", "--out", "album/web", "--size", "card=40")
    assert ran.err == "Skipped 1 image(s) in album/web, the folder for the results.\n"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Connect stdin to a file."""
    with ExitStack() as opened:

        def open_stdin(path: Path) -> None:
            monkeypatch.setattr(sys, "stdin", opened.enter_context(path.open()))

        yield open_stdin


Connect = Callable[[Path], None]


def test_process_reads_stdin_and_writes_stdout(run: Run, album: Path, connect: Connect) -> None:
    connect(album / "a.jpg")
    ran = run("process", "-", "--out", "-", "--size", "card=40")
    data = (album / "a.jpg").read_bytes()
    card = ip.process(data, [ip.VariantSpec("card", width=40)]).variants["card"]
    assert ran.stdout == card.data
    sizes = f"{show_bytes(len(data))} → card {show_bytes(card.size_bytes)}"
    assert ran.err == f"-: 900×600, {sizes}; removed nothing\n"


def test_process_names_the_results_of_stdin(run: Run, album: Path, connect: Connect) -> None:
    connect(album / "a.jpg")
    options = ["--out", "web", "--size", "card=40", "--size", "page=80", "--json"]
    report = run("process", "-", *options).json
    assert (report["file"], report["size_bytes"]) == ("-", (album / "a.jpg").stat().st_size)
    assert {path.name for path in Path("web").iterdir()} == {"stdin_card.webp", "stdin_page.webp"}


def test_closed_stdin_is_an_error_of_its_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python starts with `<&-`
    ran = run("inspect", "-", "--json")
    assert (ran.status, ran.json["error_code"]) == (1, "file_error")


def test_process_stops_reading_stdin_at_its_limit(run: Run, connect: Connect) -> None:
    connect(Path("/dev/zero"))
    ran = run("process", "-", "--out", "web", "--json", "--max-size-mb", "2")
    assert (ran.status, ran.json["error_code"]) == (1, "file_too_large")


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.jpg", "--size", "a=9", "--size", "b=8"],
        ["a.jpg"],
        ["a.jpg", "a.png", "--size", "a=9"],
        ["a.jpg", "--size", "a=9", "--json"],
    ],
)
def test_stdout_takes_one_image_in_one_size(run: Run, album: Path, arguments: list[str]) -> None:
    os.chdir(album)
    ran = run("process", *arguments, "--out", "-")
    assert (ran.status, ran.out) == (2, "")


def test_failure_to_write_stdout_leaves_it_empty(run: Run, album: Path) -> None:
    ran = run("process", album / "cut.jpg", "--out", "-", "--size", "card=40")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {album / 'cut.jpg'}: ")


def test_strip_and_inspect_work_in_a_pipeline(photo_with_gps: Path) -> None:
    program = f"{sys.executable} -m imageprocessor"
    pipeline = f"cat photo.jpg | {program} strip - -o - | {program} inspect - --json"
    ran = subprocess.run(["bash", "-c", pipeline], capture_output=True, check=True)
    report = json.loads(ran.stdout)
    clean = ip.strip_metadata(photo_with_gps)
    assert (report["file"], report["size_bytes"]) == ("-", len(clean))
    assert (report["gps"], report["orientation"]) == (None, 6)
    assert ran.stderr == b"-: removed gps, exif except orientation, camera\n"


def test_strip_of_stdin_into_a_folder_needs_a_name(run: Run, folder: Path) -> None:
    (folder / "clean").mkdir()
    assert run("strip", "-", "-o", "clean").status == 2


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


@pytest.mark.parametrize("end", [b"hidden behind the last pixel" + b"\xff\xd9", b""])
def test_strip_refuses_hidden_data_and_missing_pixels(run: Run, folder: Path, end: bytes) -> None:
    whole = encode(photo(80, 60), "JPEG").removesuffix(b"\xff\xd9")
    kept = whole if end else whole[:-500] + b"\xff\xd9"
    (folder / "photo.jpg").write_bytes(kept + end)
    ran = run("strip", "photo.jpg", "-o", "clean.jpg")
    assert ran.status == 1
    assert "last pixel" in ran.err
    assert not Path("clean.jpg").exists()


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
