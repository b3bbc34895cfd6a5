from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imageprocessor.errors import find_install_command
from tests.cli.conftest import Run, run_python
from tests.forks import Command, run_forks
from tests.images import encode, photo

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from imageprocessor.cli import main
main()
"""


def test_help_lists_every_command_in_its_panel(run: Run) -> None:
    ran = run("--help")
    assert ran.status == 0
    for word in (
        "process",
        "strip",
        "inspect",
        "serve",
        "worker",
        "sweep",
        "token",
        "config",
        "jobs",
        "Images",
        "Service",
    ):
        assert word in ran.out


def test_help_loads_neither_decoders_nor_database() -> None:
    program = "import sys, atexit; sys.argv[1:] = ['--help']\n"
    program += "atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)))\n"
    program += "from imageprocessor.cli import main; main()"
    loaded = set(run_python(program).err.split())
    assert "typer" in loaded
    assert not loaded & {
        "PIL",
        "filetype",
        "sqlalchemy",
        "pydantic",
        "fastapi",
        "uvicorn",
        "jwt",
        "structlog",
    }


@pytest.mark.parametrize(
    "command", ["process", "strip", "inspect", "serve", "worker", "sweep", "token", "config"]
)
def test_every_command_shows_an_example(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.status == 0
    assert f"imageprocessor {command}" in ran.out.partition("Example:")[2]


@pytest.mark.parametrize("command", ["list", "show", "retry"])
def test_every_job_command_shows_an_example(run: Run, command: str) -> None:
    assert (
        f"imageprocessor jobs {command}"
        in run("jobs", command, "--help").out.partition("Example:")[2]
    )


def test_garbage_collection_is_enabled_after_imports() -> None:
    report = "import atexit, gc; atexit.register(lambda: print(gc.isenabled()))"
    ran = run_python(f"{report}; from imageprocessor.cli import main; main()", "--version")
    assert ran.stdout.split()[-1:] == [b"True"]


def test_version_is_that_of_the_package(run: Run) -> None:
    ran = run("--version")
    assert (ran.status, ran.out.strip()) == (0, importlib.metadata.version("imageprocessor"))


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["process"], ["inspect", "--nonsense", "a.jpg"], ["jobs", "show"]]
)
def test_wrong_usage_exits_with_2_and_prints_usage_on_stderr(
    run: Run, arguments: list[str]
) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert "Usage: imageprocessor" in ran.err


def test_error_is_one_line_on_stderr(run: Run) -> None:
    ran = run("strip", "missing.jpg", "-o", "clean.jpg")
    assert (ran.status, ran.out, ran.err) == (
        1,
        "",
        "error: No such file or directory: missing.jpg\n",
    )


def test_file_name_in_a_system_error_is_escaped(run: Run) -> None:
    ran = run("strip", "\x1b[2Jmissing.jpg", "-o", "clean.jpg")
    assert ran.err == "error: No such file or directory: \\x1b[2Jmissing.jpg\n"


def test_all_wrong_settings_are_listed_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBP_QUALITY", "900")
    monkeypatch.setenv("PUBLIC_READS", "perhaps")
    ran = run("config")
    assert (ran.status, ran.out) == (2, "")
    assert "WEBP_QUALITY='900'" in ran.err
    assert "PUBLIC_READS='perhaps'" in ran.err


def test_missing_typer_shows_the_install_command() -> None:
    ran = run_python(WITHOUT.format(names=["typer"]), "--help")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.endswith(f"run  {find_install_command('cli')}\n")


def test_missing_extra_shows_the_install_command(tmp_path: Path) -> None:
    commands = [
        Command(["config"], ["dotenv"]),
        Command(["jobs", "list"], ["sqlalchemy"]),
        Command(["sweep"], ["sqlalchemy"]),
        Command(["token", "--sub", "me"], ["jwt"]),
        Command(["serve"], ["uvicorn"]),
        Command(["serve"], ["fastapi"]),
        Command(["worker"], ["structlog"]),
    ]
    for command, ran in zip(commands, run_forks(tmp_path, commands), strict=True):
        assert (ran.status, ran.out) == (1, ""), command
        assert f"(it uses {command.missing[0]})" in ran.err
        assert find_install_command("server") in ran.err
        assert "Traceback" not in ran.err


def test_image_commands_need_no_service_packages(tmp_path: Path) -> None:
    absent = ["sqlalchemy", "alembic", "dotenv", "structlog", "fastapi", "uvicorn", "jwt"]
    (tmp_path / "a.png").write_bytes(encode(photo(40, 30), "PNG"))
    commands = [
        Command(["inspect", "a.png"], absent),
        Command(["strip", "a.png", "-o", "b.png"], absent),
        Command(["process", "a.png", "--out", "web", "--json"], absent),
    ]
    inspected, stripped, processed = run_forks(tmp_path, commands, ["imageprocessor.core.pipeline"])
    assert (inspected.status, stripped.status, processed.status) == (0, 0, 0)
    assert json.loads(processed.out)["width"] == 40


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_encoding_lacks_are_printed_as_question_marks(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    program = "from PIL import Image\nImage.new('RGB', (4, 3)).save('\\u732b.png')\n"
    ran = run_python(f"{program}from imageprocessor.cli import main; main()", *ARGUMENTS)
    assert ran.status == 0
    assert ran.stdout.decode(encoding).startswith("?.png\n")
    assert ("4×3" if encoding == "latin-1" else "4?3") in ran.stdout.decode(encoding)


ARGUMENTS = ["inspect", "\u732b.png"]


def test_closed_pipe_causes_no_traceback() -> None:
    command = f"{sys.executable} -m imageprocessor config --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""
