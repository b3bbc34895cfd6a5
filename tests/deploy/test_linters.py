"""Linters and other checks of the deployment files."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import require_program
from tests.deploy.compose import ROOT
from tests.deploy.container import DOCKERFILE


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    ran = run(require_program("hadolint"), "--failure-threshold", "style", "Dockerfile")
    assert (ran.returncode, ran.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = [str(path) for path in ROOT.glob("deploy/*.sh")]
    ran = run(require_program("shellcheck"), "--enable=all", *scripts)
    assert (ran.returncode, ran.stdout, len(scripts)) == (0, "", 1)


@pytest.mark.parametrize(("imaging", "code"), [("pillow", 0), ("simd", 0), ("SIMD", 1), ("", 1)])
def test_build_fails_with_an_unknown_imaging_value(imaging: str, code: int) -> None:
    check = re.search(r"^RUN (case .*?esac)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert check
    ran = run("sh", "-c", f"IMAGING={imaging}\n{check[1]}")
    assert (ran.returncode, "IMAGING=pillow (the default) or IMAGING=simd" in ran.stderr) == (
        code,
        code == 1,
    )


def test_pillow_simd_is_built_with_the_same_options_everywhere() -> None:
    pages = {
        name: (ROOT / name).read_text()
        for name in ("Dockerfile", "noxfile.py", "docs/deployment.md")
    }
    for needed in (
        "pillow-simd==12.1.1.post0",
        "cc -mavx2",
        "webp=enable",
        "lcms=enable",
        "--no-cache",
    ):
        assert [name for name, page in pages.items() if needed not in page] == []


def test_build_context_contains_only_what_is_copied() -> None:
    copied = {
        name
        for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    seen = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(seen)
    assert all((ROOT / name).exists() for name in seen)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
