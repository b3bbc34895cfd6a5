"""Every check of the project: `nox` runs those that a change needs, `nox --list` names the others.

The first four sessions run in the environment that nox itself runs in: `pip install -e '.[dev]'`
has put there all they need. The others make environments of their own, because what is installed is
what they test.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import nox
from nox.command import CommandFailed

PROJECT = nox.project.load_toml("pyproject.toml")
IN_PARALLEL = ["-n", "auto", "--dist", "loadgroup"]  # what shares a server shares a process
WITHOUT_EXTRAS = [
    "tests/core",
    "tests/storage",
    "src/imageprocessor/core",
    "src/imageprocessor/storage",
]
SIMD = "pillow-simd==12.1.1.post0"
SIMD_HEADERS = ("stdio.h", "jpeglib.h", "lcms2.h", "webp/encode.h", "zlib.h", "Python.h")
MIGRATE = """
from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.settings import Settings
migrate(open_database(Settings(database_path="fresh.db")))
"""

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.error_on_external_run = True
nox.options.download_python = "never"

# The tools of this environment, also when it is not activated
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style, format, and who may import whom."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Static types of the package, its tests and this file."""
    session.run("mypy")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation; a broken link or reference is an error."""
    session.run("sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests, on the Python that runs nox. Arguments after `--` go to pytest."""
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv", python=nox.project.python_versions(PROJECT))
def pythons(session: nox.Session) -> None:
    """All tests, on each supported Python that is installed."""
    session.install("-e", ".[bench]")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv")
def minimums(session: nox.Session) -> None:
    """All tests, with the lowest version of every dependency that pyproject.toml permits."""
    session.install("--resolution", "lowest-direct", "-e", ".[bench]")
    # Old versions warn of what is long changed.
    session.run("pytest", *IN_PARALLEL, "-W", "default", *session.posargs)


@nox.session(venv_backend="uv")
def simd(session: nox.Session) -> None:
    """All tests on Pillow-SIMD, built from source: needs AVX2, a C compiler and headers."""
    flags = ["-mavx2", "-fsyntax-only", f"-I{sysconfig.get_path('include')}"]
    flags += [f"-include{name}" for name in SIMD_HEADERS]
    try:
        session.run("cc", *flags, "-xc", os.devnull, external=True, silent=True)
    except CommandFailed:
        session.error(
            "Pillow-SIMD is built from source: "
            "install the packages that the Dockerfile installs for it"
        )
    session.install("-e", ".[bench]")
    session.run("uv", "pip", "uninstall", "pillow", external=True)
    # A wheel in the cache may be one that was built without AVX2
    session.install(
        "--no-cache", "-C", "webp=enable", "-C", "lcms=enable", SIMD, env={"CC": "cc -mavx2"}
    )
    session.run(
        "python", "-c", "from PIL.features import pilinfo; pilinfo(supported_formats=False)"
    )
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv")
def tests_base(session: nox.Session) -> None:
    """The library without extras; a command that needs one says how to install it."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", *WITHOUT_EXTRAS, *session.posargs)
    said = session.run("python", "-m", "imageprocessor", "serve", success_codes=[1, 2], silent=True)
    if "pip install 'imageprocessor[" not in str(said):
        session.error(f"`imageprocessor serve` without extras does not say what to install: {said}")


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """The long form of the tests that kill, and of those that need much memory: an hour."""
    long = {"CHAOS_IMAGES": "1000", "WORST_IMAGES": "all"}
    session.run("pytest", "tests/chaos", "tests/hostile/test_memory.py", *session.posargs, env=long)


@nox.session(venv_backend="uv")
def bench(session: nox.Session) -> None:
    """The benchmarks, on a machine that does nothing else; arguments go to `-m benchmarks`."""
    # As pip does: without bytecode every start would compile what it imports
    session.install("-e", ".[bench]", env={"UV_COMPILE_BYTECODE": "1"})
    peers = session.create_tmp()
    if shutil.which("npm"):  # else the rows with sharp say why they were skipped
        session.run("npm", "install", "--silent", "--prefix", peers, "sharp@0.35", external=True)
    session.run("python", "-m", "benchmarks", *session.posargs, env={"SHARP_DIR": peers})


@nox.session(venv_backend="uv", python="3.11")
def fuzz(session: nox.Session) -> None:
    """Coverage-guided fuzzing, a minute for each target; arguments after `--` go to libFuzzer."""
    session.install("-e", ".[test]", "atheris>=3")
    options = session.posargs or ["-max_total_time=60"]
    for target in ("validate", "strip", "process"):
        session.run("python", "-m", f"tests.fuzz.fuzz_{target}", *options)


@nox.session(venv_backend="uv")
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what a fresh install brings; needs the network."""
    session.install(".[all]", "pip-audit")
    # Unreleased: no service knows it.
    session.run("uv", "pip", "uninstall", "imageprocessor", external=True)
    session.run("pip-audit", "--strict", "--progress-spinner", "off")


@nox.session(venv_backend="uv")
def build(session: nox.Session) -> None:
    """The source archive, the wheel from it, and what that wheel does in a fresh environment."""
    out = session.create_tmp()
    session.run("uv", "build", "--out-dir", out, external=True)
    (wheel,) = Path(out).glob("*.whl")
    session.install(f"{wheel}[all]")
    session.chdir(out)  # out of reach of the checkout
    session.run("imageprocessor", "--help")
    session.run("python", "-c", MIGRATE)
