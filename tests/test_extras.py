"""An error about a missing package contains the command that installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

POSTGRES = "postgresql+psycopg://user:secret@127.0.0.1/name"
WITHOUT = "import sys; sys.modules[{module!r}] = None; from imageprocessor.cli import main; main()"


@pytest.mark.parametrize(
    ("module", "settings", "extra"),
    [
        ("celery", {"QUEUE_BACKEND": "celery"}, "celery"),
        ("redis", {"QUEUE_BACKEND": "celery"}, "celery"),
        ("boto3", {"STORAGE_BACKEND": "s3", "S3_BUCKET": "images"}, "s3"),
        ("psycopg", {"DATABASE_URL": POSTGRES}, "postgres"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_missing_backend_names_its_extra(
    command: str, module: str, settings: dict[str, str], extra: str, tmp_path: Path
) -> None:
    program = WITHOUT.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", program, command],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert f"pip install 'imageprocessor[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_library_storage_names_its_missing_extra() -> None:
    program = "import sys; sys.modules['boto3'] = None; import imageprocessor as ip; ip.open_storage('s3://images')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError" in done.stderr
    assert "pip install 'imageprocessor[s3]'" in done.stderr


def test_celery_worker_names_its_missing_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules['redis'] = None; import imageprocessor.queue.celery_app"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "pip install 'imageprocessor[celery]'" in done.stderr
