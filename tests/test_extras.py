"""An error about a missing package contains the command that installs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imageprocessor.errors import find_install_command
from tests.forks import Command, run_forks

POSTGRES = "postgresql+psycopg://user:secret@127.0.0.1/name"
BACKENDS = {
    "celery": ({"QUEUE_BACKEND": "celery"}, "celery"),
    "redis": ({"QUEUE_BACKEND": "celery"}, "celery"),
    "boto3": ({"STORAGE_BACKEND": "s3", "S3_BUCKET": "images"}, "s3"),
    "psycopg": ({"DATABASE_URL": POSTGRES}, "postgres"),
    "pillow_heif": ({"ALLOWED_MIME_TYPES": "image/heic"}, "heic"),
}
"""Settings and extra, by the package that they need."""

SHARED = ["imageprocessor.server.app", "imageprocessor.cli.serving"]


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_missing_backend_names_its_extra(command: str, tmp_path: Path) -> None:
    commands = []
    for module, (settings, _) in BACKENDS.items():
        commands.append(Command([command], [module], settings))
    ended = run_forks(tmp_path, commands, SHARED)
    for (_, extra), ran in zip(BACKENDS.values(), ended, strict=True):
        assert ran.status in {1, 2}, ran.err  # 2: a setting is wrong
        assert find_install_command(extra) in ran.err
        assert "Traceback" not in ran.err
        assert "secret" not in ran.err


def test_library_storage_names_its_missing_extra() -> None:
    program = "import sys; sys.modules['boto3'] = None; import imageprocessor as ip; ip.open_storage('s3://images')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError" in done.stderr
    assert find_install_command("s3") in done.stderr


def test_celery_worker_names_its_missing_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules['redis'] = None; import imageprocessor.queue.celery_app"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert find_install_command("celery") in done.stderr


INSTALLED = {
    "pip install .": ({"dir_info": {}}, "pip install '.[celery]'"),
    "pip install -e .": ({"dir_info": {"editable": True}}, "pip install -e '.[celery]'"),
    "pip install FILE.whl": ({"archive_info": {}}, None),
    "pip install imageprocessor": (None, None),
}


@pytest.mark.parametrize(("origin", "command"), INSTALLED.values(), ids=INSTALLED)
def test_install_command_fits_how_the_package_was_installed(
    origin: dict[str, object] | None,
    command: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    installed = tmp_path / "site-packages/imageprocessor-9.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: imageprocessor\nVersion: 9\n")
    if origin:
        url = {"url": checkout.as_uri()}
        (installed / "direct_url.json").write_text(json.dumps(url | origin))
    monkeypatch.syspath_prepend(installed.parent)
    plain = "pip install 'imageprocessor[celery]'"
    expected = f"cd '{checkout}' && {command}" if command else plain
    assert find_install_command("celery") == expected
    (checkout / "pyproject.toml").unlink()
    assert find_install_command("celery") == plain
