from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.compose import ROOT
from tests.deploy.live import KEY, authorization, image_path, run_service
from tests.servers import create_database


def copy(source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy/copy_database.py"), str(source)]
    return subprocess.run(command, cwd="/", env=os.environ | environment, capture_output=True, text=True, check=False)


def test_images_of_sqlite_are_those_of_postgresql_afterwards(tmp_path: Path, postgres: int) -> None:
    data = tmp_path / "data"
    with run_service(data) as place:
        image_id = place.make_image()
        before = place.ask(f"/api/v1/images/{image_id}/all", headers=authorization()).body
    url = create_database(postgres)
    copied = copy(data / "processor.db", DATABASE_URL=url)
    assert (copied.returncode, "processing_jobs: 1 rows" in copied.stdout) == (0, True), copied.stderr
    (data / "processor.db").rename(tmp_path / "processor.db")
    with run_service(data, DATABASE_URL=url, JWT_SECRET_KEY=KEY) as place:
        assert place.ask(f"/api/v1/images/{image_id}/all", headers=authorization()).body == before
        assert place.ask(image_path(image_id)).status == 200
    again = copy(tmp_path / "processor.db", DATABASE_URL=url)
    assert (again.returncode, "has rows" in again.stderr) == (1, True)


def test_copy_without_a_target_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/processor.db").touch()
    ran = copy(tmp_path / "data/processor.db")
    assert (ran.returncode, "DATABASE_URL is not set" in ran.stderr) == (1, True)
