"""A container without an engine: no privileges, a read-only root and one data folder.

The programs are those of this Python, mounted where the unprivileged user can read them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import missing, require_program
from tests.deploy.compose import ROOT

USER = 10001
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PYTHON = f"/mnt/python/bin/{Path(os.path.realpath(sys.executable)).name}"
PROGRAMS = {
    "imageprocessor": [PYTHON, "-m", "imageprocessor"],
    "celery": [PYTHON, "-m", "celery"],
    "python": [PYTHON],
}
ENVIRONMENT = {
    "LD_LIBRARY_PATH": "/mnt/python/lib",
    "PYTHONPATH": "/mnt/source:/mnt/packages",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PATH": "/usr/bin:/bin",
}
ENTER = f"""
set -eu
mount -t tmpfs -o mode=0755 tmpfs /mnt
for name in python packages source data; do
    mkdir "/mnt/$name"
    mount --bind "$1" "/mnt/$name"
    shift
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
for place in /mnt/python /mnt/packages /mnt/source /mnt /; do
    mount -o remount,bind,ro "$place"
done
cd /mnt/data
exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all env -i "$@"
"""


def instruction(name: str) -> list[str]:
    """Return the arguments of the Dockerfile's last *name*, which belongs to the default stage."""
    arguments: list[str] = json.loads(
        re.findall(rf"^ *{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1]
    )
    return arguments


def health_check() -> list[str]:
    return instruction(r"HEALTHCHECK .*\\\n +CMD")


def contained(data: Path, environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """Return a command line that runs *command* as in a container whose `/data` is *data*."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["unshare", "--mount", "true"], check=False, capture_output=True
        ).returncode
    ):
        missing("mounting needs root")
    places = [sys.base_prefix, sysconfig.get_paths()["platlib"], str(ROOT / "src"), str(data)]
    variables = [
        f"{name}={value}".replace("/data", "/mnt/data") for name, value in environment.items()
    ]
    program = [*PROGRAMS.get(command[0], command[:1]), *command[1:]]
    own = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    return [
        require_program("unshare"),
        "--mount",
        "sh",
        "-c",
        ENTER,
        "sh",
        *places,
        *own,
        *variables,
        *program,
    ]
