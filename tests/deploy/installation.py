"""An installation: a folder with a service's data, where the operator's commands run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from tests.conftest import require_program
from tests.deploy.compose import ROOT
from tests.deploy.live import KEY, image_path
from tests.uploads import submit_to

BACKUP = str(ROOT / "deploy/backup.sh")


@dataclass(frozen=True, slots=True)
class Installation:
    """A folder with a service's data in `data` and the operator's programs in `bin`."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder / "bin"), "/usr/bin", "/bin", *pg_programs()])
        settings = {"PATH": path, "DATA_DIR": "data", "JWT_SECRET_KEY": KEY, **environment}
        inherited = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=inherited | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def add_image(self, **settings: str) -> str:
        """Store an image as the service does, without a process of its own; return its path."""
        values = {"data_dir": self.data, "jwt_secret_key": KEY, **settings}
        with open_service(Settings.model_validate(values)) as service:
            job = submit_to(service)
            run_job(service, job.job_id, "worker")
        return image_path(job.image_id)

    def add_program(self, name: str, command: str) -> None:
        program = self.folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)

    def back_up(self, folder: Path, **environment: str) -> Path:
        ran = self.run(BACKUP, str(folder), **environment)
        assert (ran.returncode, ran.stderr) == (0, "")
        return Path(ran.stdout.strip())


def pg_programs() -> list[str]:
    return [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]


def make_installation(folder: Path) -> Installation:
    require_program("rsync")
    (folder / "bin").mkdir()
    installation = Installation(folder)
    installation.add_program("imageprocessor", f"{sys.executable} -m imageprocessor")
    return installation
