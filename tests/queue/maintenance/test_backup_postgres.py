from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from imageprocessor.errors import SettingsError
from imageprocessor.queue.access import ANYONE
from imageprocessor.queue.database.schema import HEAD
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.maintenance.backup import back_up, restore
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.queue.conftest import Submit
from tests.servers import find_postgres

pytestmark = pytest.mark.parametrize("settings", ["postgres"], indirect=True)


def test_postgres_is_refused_with_commands_that_work(
    service: Service, submit_image: Submit, tmp_path: Path
) -> None:
    job = submit_image()
    with pytest.raises(SettingsError, match="pg_dump") as dump:
        back_up(service.settings, tmp_path)
    run_command(str(dump.value))
    with service.database.write() as connection:
        connection.execute(text("DELETE FROM processing_jobs"))
    with pytest.raises(SettingsError, match="pg_restore") as pg_restore:
        restore(service.settings, tmp_path)
    run_command(str(pg_restore.value))
    assert read_job(service, job.job_id, ANYONE) == job
    with service.database.read() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == [HEAD]


def run_command(message: str) -> None:
    """Run the command in the last line of *message*."""
    program, *arguments = shlex.split(message.splitlines()[-1])
    subprocess.run([find_postgres(program), *arguments], check=True)


@pytest.mark.parametrize("action", [back_up, restore])
def test_password_is_not_in_the_command(
    action: Callable[..., object], settings: Settings, tmp_path: Path
) -> None:
    url = "postgresql+psycopg://me:secret-word@db/images?sslmode=require&password=secret-word"
    with pytest.raises(SettingsError, match="postgresql://me@db/images") as caught:
        action(settings.model_copy(update={"database_url": SecretStr(url)}), tmp_path)
    assert "secret-word" not in str(caught.value)


def test_command_connects_directly(settings: Settings, tmp_path: Path) -> None:
    direct = SecretStr("postgresql+psycopg://me@db/images")
    with pytest.raises(SettingsError, match="postgresql://me@db/images"):
        back_up(settings.model_copy(update={"database_direct_url": direct}), tmp_path)
