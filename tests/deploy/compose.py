"""The compose files as Compose reads them: validated, merged and with the values of `.env`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import require_program

ROOT = Path(__file__).parents[2]
BASE = ("docker-compose.yml",)
DEVELOPMENT = (*BASE, "docker-compose.override.yml")
PRODUCTION = (*BASE, "docker-compose.prod.yml")
KEY = "0123456789abcdef" * 4


def make_project(folder: Path, *lines: str) -> Path:
    """Copy the files that `docker compose` reads to *folder*, and add *lines* to its `.env`."""
    for name in ("Dockerfile", *{*DEVELOPMENT, *PRODUCTION}):
        shutil.copy(ROOT / name, folder)
    example = (ROOT / ".env.example").read_text()
    (folder / ".env").write_text("\n".join([example, *lines, ""]))
    return folder


def read_project(
    folder: Path, files: Sequence[str] = BASE, profiles: Sequence[str] = ()
) -> dict[str, Any]:
    """Return Compose's configuration of the project in *folder*."""
    ran = compose(
        folder,
        files,
        *[part for name in profiles for part in ("--profile", name)],
        "config",
        "--format=json",
    )
    assert ran.returncode == 0, ran.stderr
    config: dict[str, Any] = json.loads(ran.stdout)
    return config


def compose(
    folder: Path, files: Sequence[str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    named = [part for name in files for part in ("--file", name)]
    command = [require_program("docker-compose"), *named, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
