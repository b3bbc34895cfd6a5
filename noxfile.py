"""Every check of the project. `nox` runs those that each change needs; `nox --list` shows all.

The first four sessions run in nox's own environment, where `pip install -e '.[dev]'` installed what
they need. The other sessions create environments of their own, because what they test depends on
what is installed.
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
# Many tests wait for other processes, so one more than there are cores keeps these busy. Tests that
# share a server run in one process.
IN_PARALLEL = ["-n", str((os.cpu_count() or 1) + 1), "--dist", "loadgroup"]
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

# Find the tools of this environment even if it is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, format and the rules for imports."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the static types of the package, its tests and this file."""
    session.run("mypy")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation; a broken link or reference is an error."""
    session.run("sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run all tests on the Python that runs nox. Arguments after `--` go to pytest."""
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv", python=nox.project.python_versions(PROJECT))
def pythons(session: nox.Session) -> None:
    """Run all tests on each supported Python that is installed."""
    session.install("-e", ".[bench]")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv")
def minimums(session: nox.Session) -> None:
    """Run all tests with the lowest permitted version of every dependency."""
    session.install("--resolution", "lowest-direct", "-e", ".[bench]")
    # Old versions emit deprecation warnings that newer ones do not.
    session.run("pytest", *IN_PARALLEL, "-W", "default", *session.posargs)


@nox.session(venv_backend="uv")
def simd(session: nox.Session) -> None:
    """Run all tests on Pillow-SIMD, built from source; needs AVX2, a C compiler and headers."""
    flags = ["-mavx2", "-fsyntax-only", f"-I{sysconfig.get_path('include')}"]
    flags += [f"-include{name}" for name in SIMD_HEADERS]
    try:
        session.run("cc", *flags, "-xc", os.devnull, external=True, silent=True)
    except CommandFailed:
        session.error(
            "Cannot build Pillow-SIMD from source. "
            "Install the packages that the Dockerfile installs for it."
        )
    session.install("-e", ".[bench]")
    session.run("uv", "pip", "uninstall", "pillow", external=True)
    # A cached wheel may have been built without AVX2.
    session.install(
        "--no-cache", "-C", "webp=enable", "-C", "lcms=enable", SIMD, env={"CC": "cc -mavx2"}
    )
    session.run(
        "python", "-c", "from PIL.features import pilinfo; pilinfo(supported_formats=False)"
    )
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(venv_backend="uv")
def tests_base(session: nox.Session) -> None:
    """Test the library without extras; a command that needs an extra prints how to install it."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", *WITHOUT_EXTRAS, *session.posargs)
    out = session.run("python", "-m", "imageprocessor", "serve", success_codes=[1, 2], silent=True)
    if "pip install -e '.[cli]'" not in str(out):
        session.error(f"`imageprocessor serve` without extras must print what to install: {out}")


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """Run the long form of the chaos and memory tests; takes an hour."""
    long = {"CHAOS_IMAGES": "1000", "WORST_IMAGES": "all"}
    session.run("pytest", "tests/chaos", "tests/hostile/test_memory.py", *session.posargs, env=long)


@nox.session(venv_backend="uv")
def bench(session: nox.Session) -> None:
    """Run the benchmarks; needs an idle machine. Arguments go to `-m benchmarks`."""
    # pip compiles bytecode by default, uv does not. Without it, every start would compile imports.
    session.install("-e", ".[bench]", env={"UV_COMPILE_BYTECODE": "1"})
    peers = session.create_tmp()
    if shutil.which("npm"):  # otherwise the benchmarks of sharp are skipped, with the reason
        session.run("npm", "install", "--silent", "--prefix", peers, "sharp@0.35", external=True)
    session.run("python", "-m", "benchmarks", *session.posargs, env={"SHARP_DIR": peers})


@nox.session(venv_backend="uv", python="3.11")
def fuzz(session: nox.Session) -> None:
    """Fuzz each target for a minute, guided by coverage. Arguments after `--` go to libFuzzer."""
    session.install("-e", ".[test]", "atheris>=3")
    options = session.posargs or ["-max_total_time=60"]
    for target in ("validate", "containers", "strip", "process", "operations"):
        session.run("python", "-m", f"tests.fuzz.fuzz_{target}", *options)


@nox.session(venv_backend="uv")
def audit(session: nox.Session) -> None:
    """Check the packages of a fresh installation for known vulnerabilities; needs the network."""
    session.install(".[all,heic]", "pip-audit")
    # This package is not released, so that vulnerability services do not know it.
    session.run("uv", "pip", "uninstall", "imageprocessor", external=True)
    session.run("pip-audit", "--strict", "--progress-spinner", "off")


@nox.session(venv_backend="uv")
def build(session: nox.Session) -> None:
    """Build the source archive and a wheel from it; try the wheel in a fresh environment."""
    out = session.create_tmp()
    session.run("uv", "build", "--out-dir", out, external=True)
    (wheel,) = Path(out).glob("*.whl")
    session.install(f"{wheel}[all]")
    session.chdir(out)  # away from the checkout, so that only the wheel can be imported
    session.run("imageprocessor", "--help")
    session.run("python", "-c", MIGRATE)
