"""The examples of the documentation run, its links exist and its tables match the code."""

from __future__ import annotations

import doctest
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import typer
from PIL import Image, ImageOps
from typer.testing import CliRunner

import imageprocessor
from imageprocessor.cli.app import app
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from tests.conftest import require_program

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GENERATED = sorted(
    path for path in DOCUMENTS if "<!-- generated: " in path.read_text(encoding="utf-8")
)
# An example after the comment "<!-- not run: REASON -->" must only be valid Python.
EXAMPLE = re.compile(
    r"(?P<not_run><!-- not run: [^>]+ -->\n\s*)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
SESSION = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
NAMED_FILE = re.compile(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`")
COMMAND = re.compile(
    r"^ *(?:\$ )?(?:\.venv/bin/)?imageprocessor (?P<name>[a-z-]+)(?P<rest>.*)", re.MULTILINE
)
GROUPS = {"db", "jobs", "webhooks"}  # of commands
OPTION = re.compile(r"(?<=\s)--[a-z-]+")
HOST = re.compile(r"https?://([\w.-]+)")
KNOWN_HOSTS = {"127.0.0.1", "localhost", "imageprocessor", "a", "b"}
KNOWN_HOSTS |= {"keepachangelog.com", "semver.org"}
# Shell lines to run, and the JSON that the last line prints, if the document shows it.
SHELL = re.compile(
    r"(?P<not_run><!-- not run: [^>]+ -->\n)?```bash\n(?P<lines>.*?)```\n"
    r"(?:\n```(?P<language>json|text)\n(?P<answer>.*?)```)?",
    re.DOTALL,
)
NEXT = "--- next block ---"
EXAMPLE_PHOTO = ROOT / "docs" / "photo.jpg"
# What differs from run to run, or between versions of the codecs.
VARYING_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9-]{10}T[0-9:.]+Z")
VARYING_FIELDS = {"size_bytes", "avg_processing_time_seconds"}
LAST_JOB = (
    """$(imageprocessor jobs list --limit 1 --json | sed -n 's/.*"job_id": "\\(.*\\)",/\\1/p')"""
)


def name_document(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_document)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a current folder that has the example photo under each name that the pages use."""
    for name in ("photo.jpg", "photos/one.jpg", "docs/photo.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(EXAMPLE_PHOTO.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each_document
@pytest.mark.usefixtures("folder")
def test_python_examples_run(document: Path) -> None:
    names: dict[str, object] = {}
    text = document.read_text(encoding="utf-8")
    for example in EXAMPLE.finditer(text):
        line = text.count("\n", 0, example.start("code"))
        code = re.sub(rf"^{example['indent']}", "", example["code"], flags=re.MULTILINE)
        program = compile("\n" * line + code, str(document), "exec")
        if not example["not_run"]:
            exec(program, names)


@pytest.mark.usefixtures("folder")
def test_library_examples_print_the_documented_output() -> None:
    sessions = "\n".join(SESSION.findall(read("docs/library.md")))
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(sessions, {}, "library.md", None, 0))
    results = runner.summarize()
    assert (results.failed, results.attempted > 20) == (0, True)


def test_library_page_mentions_every_public_name() -> None:
    named = set(re.findall(r"\w+", read("docs/library.md")))
    assert set(imageprocessor.__all__) - named == set()


@each_document
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = {document.parent / target for target in LINK.findall(text)}
    named = {ROOT / path for path in NAMED_FILE.findall(text) if "NAME" not in path}
    assert [str(path) for path in sorted(linked | named) if not path.exists()] == []


@each_document
def test_source_archive_has_each_document_and_what_it_links_to(document: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        targets = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]
    packed = [ROOT / name.lstrip("/") for name in targets["sdist"]["include"]]
    text = document.read_text(encoding="utf-8")
    linked = [(document.parent / target).resolve() for target in LINK.findall(text)]
    for path in (document, *linked):
        assert any(path.is_relative_to(place) for place in packed), path


@each_document
def test_no_unknown_host_or_local_path_is_mentioned(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    hosts = {host for host in HOST.findall(text) if not host.endswith("example.com")}
    assert hosts <= KNOWN_HOSTS
    assert [path for path in (str(ROOT), sys.prefix, str(Path.home())) if f"{path}/" in text] == []


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    for command in COMMAND.finditer(document.read_text(encoding="utf-8")):
        words = command[0].split("imageprocessor ")[1].split()
        has_subcommand = command["name"] in GROUPS and len(words) > 1
        shown = show_help(*words[: 1 + has_subcommand])
        unknown = set(OPTION.findall(command["rest"])) - set(re.findall(r"--[a-z-]+", shown))
        assert not unknown, f"{command[0]}: unknown {unknown}"


@cache
def show_help(*command: str) -> str:
    """Return the help of a command; fail if there is no such command."""
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    ran = CliRunner().invoke(app, [*command, "--help"], env=environment)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_headings_of_commands_are_their_names() -> None:
    headings = re.findall(r"^## imageprocessor (.*)", read("docs/cli.md"), re.MULTILINE)
    named = set(list_commands(typer.main.get_command(app)))
    assert set(headings) == named
    assert len(headings) == len(named)


def list_commands(command: Any, prefix: str = "") -> Iterator[str]:
    """Yield each command below *command* as a user types it."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield prefix.strip()
        return
    for name, child in commands.items():
        yield from list_commands(child, f"{prefix} {name}")


@pytest.mark.parametrize("document", GENERATED, ids=name_document)
def test_generated_parts_are_current(document: Path) -> None:
    render_page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["render_page"]
    assert document.read_text(encoding="utf-8") == render_page(document), (
        "run: python docs/generate.py"
    )


def test_settings_table_shows_only_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hidden-value@redis.example.com/0")
    (folder / ".env").write_text("JWT_SECRET_KEY=hidden-value\n")
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    table = generate["make_settings_table"]()
    assert "`REDIS_URL`<br>`redis://localhost:6379/0` |" in table
    assert "`JWT_SECRET_KEY`<br>– |" in table
    assert "hidden-value" not in table
    assert "***" not in table


def test_server_page_lists_every_endpoint() -> None:
    documented = set(re.findall(r"`(GET|POST|DELETE|PUT|PATCH) (/[^?`]*)", read("docs/server.md")))
    paths = create_app(Settings()).openapi()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    served |= {("GET", "/docs"), ("GET", "/metrics"), ("GET", "/openapi.json")}
    assert documented == served


def test_quickstart_commands_run(service: Service) -> None:
    check_shell_examples("docs/quickstart.md", service)


def test_readme_commands_run(service: Service) -> None:
    check_shell_examples("README.md", service)


def test_being_told_commands_run(service: Service) -> None:
    check_shell_examples("docs/being-told.md", service)


def test_command_line_page_commands_run(service: Service) -> None:
    check_shell_examples("docs/cli.md", service)


def test_diagram_shows_the_result_for_the_example_photo() -> None:
    diagram = read("docs/_static/before-after.svg")
    result = imageprocessor.process(EXAMPLE_PHOTO)
    assert f"removed: {', '.join(result.removed)}<" in diagram
    for name, variant in result.variants.items():
        assert re.search(rf">{name}<.*>{variant.width}×{variant.height}, ", diagram)


def test_example_photo_matches_the_script() -> None:
    example = runpy.run_path(str(ROOT / "docs" / "example.py"))
    drawn = np.asarray(example["draw_landscape"](), np.int16)
    with Image.open(EXAMPLE_PHOTO) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored), np.int16)
    assert np.abs(drawn - upright).mean() < 3


def test_pictures_show_what_the_page_says() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    pictures = list(script["list_pictures"]())
    files = {path.name for path in script["FOLDER"].iterdir()}
    again = "Run: python docs/pictures.py"
    assert {picture.file for picture in pictures} == files, again
    for picture in pictures:
        assert picture.file == picture.expected_file
        made = Image.open(BytesIO(picture.encode()))
        shown = Image.open(script["FOLDER"] / picture.file)
        assert (made.size, count_frames(made)) == (shown.size, count_frames(shown)), picture
        levels = (np.asarray(image.convert("RGBA"), np.int16) for image in (made, shown))
        assert np.abs(np.subtract(*levels)).mean() < 2, f"{picture} differs. {again}"


def count_frames(image: Image.Image) -> int:
    frames: int = getattr(image, "n_frames", 1)
    return frames


def test_pictures_of_equal_bytes_are() -> None:
    rows = [line for line in read("docs/formats-and-quality.md").splitlines() if ".avif)" in line]
    assert rows
    for row in rows:
        sizes = [(ROOT / "docs" / path).stat().st_size for path in LINK.findall(row)]
        assert max(sizes) < 1.05 * min(sizes), row
        assert max(sizes) < 3000, row


def test_pictures_of_lossy_and_lossless_text_have_the_bytes_that_the_page_says() -> None:
    page = read("docs/formats-and-quality.md")
    row = next(line for line in page.splitlines() if "lossless_1`" in line)
    lossy, lossless = ((ROOT / "docs" / path).stat().st_size for path in LINK.findall(row))
    assert f"{lossless / 1000:.1f} kB instead of {lossy / 1000:.1f}" in page


@dataclass(frozen=True, slots=True)
class Service:
    """A service running in *folder*; with *environment*, curl finds it at port 8000."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    require_program("curl")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = make_environment(folder / "bin", port)
    process = subprocess.Popen(
        [folder / "bin" / "imageprocessor", "serve", "--port", str(port)],
        cwd=folder,
        env=environment,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz", process)
        yield Service(folder, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def make_environment(programs: Path, port: int) -> dict[str, str]:
    """Return an environment with this Python's `imageprocessor`, in which curl reaches *port*.

    curl retries until a job has ended, and fails on an error response.
    """
    programs.mkdir()
    command = programs / "imageprocessor"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m imageprocessor "$@"\n')
    command.chmod(0o755)
    options = ("silent", "fail", "retry = 30", "retry-all-errors", "retry-delay = 1")
    connection = f"connect-to = 127.0.0.1:8000:127.0.0.1:{port}"
    (programs / ".curlrc").write_text("\n".join([*options, connection]))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "CURL_HOME": str(programs)}


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the service ended"
        try:
            with urlopen(url) as response:
                assert response.status == 200
                return
        except URLError:
            time.sleep(0.1)
    pytest.fail("the service does not answer")


def check_shell_examples(name: str, service: Service) -> None:
    """Run the shell lines of a document in one shell, and compare what they print."""
    blocks = [block for block in SHELL.finditer(read(name)) if not is_setup(block)]
    assert len(blocks) > 1
    script = f"\necho '{NEXT}'\n".join(
        block["lines"].replace("/JOB_ID/", f"/{LAST_JOB}/") for block in blocks
    )
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=service.folder,
        env=service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout
    for block, printed in zip(blocks, ran.stdout.split(NEXT), strict=True):
        if block["language"] == "json":
            check_answer(json.loads(printed), json.loads(block["answer"]))
        elif block["language"] == "text":
            assert words_of(printed) == words_of(block["answer"])


def check_answer(printed: Any, shown: Any) -> None:
    """Fail if *printed* differs from what the document has *shown*, where "…" is anything."""
    if shown in ("…", {"…": "…"}):
        return
    if isinstance(shown, dict):
        elided = set(shown) & {"…"}
        assert elided or list(printed) == list(shown)
        for field in set(shown) - VARYING_FIELDS - elided:
            check_answer(printed[field], shown[field])
    elif isinstance(shown, list):
        assert len(printed) == len(shown)
        for printed_item, shown_item in zip(printed, shown, strict=True):
            check_answer(printed_item, shown_item)
    elif isinstance(shown, str):
        assert VARYING_TEXT.sub("#", printed) == VARYING_TEXT.sub("#", shown)
    else:
        assert printed == shown


def words_of(text: str) -> list[str]:
    """Return the words of a terminal's output; file sizes vary between versions of the codecs."""
    return re.sub(r"[\d.]+ [kM]?B\b", "SIZE", text).replace("─", "").split()


def is_setup(block: re.Match[str]) -> bool:
    """Return whether a block is marked as not run or creates the virtual environment."""
    return bool(block["not_run"]) or block["lines"].startswith("python3 -m venv")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
