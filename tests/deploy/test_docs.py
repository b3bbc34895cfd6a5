"""Run the commands of the deployment page, with other names, ports and folders."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from tests.conftest import require_program
from tests.deploy.compose import BASE, KEY, ROOT, compose, make_project, read_project
from tests.deploy.installation import Installation, make_installation
from tests.deploy.live import Place, image_path, run_service
from tests.servers import create_database
from tests.uploads import submit_to

PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^<!-- run: (?P<name>[^>]+) -->\n```(?:bash|ini)\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL
)
UNMARKED = re.compile(r"(?<! -->)\n```bash\n.*?\n```", re.DOTALL)
COMPOSE_LINE = re.compile(r"^docker compose (.*)$", re.MULTILINE)


def block(name: str, part: int = 0) -> str:
    """Return the lines of the block marked with *name*; *part* selects one of several."""
    return [found["lines"] for found in BLOCK.finditer(PAGE) if found["name"] == name][part]


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    installation = make_installation(tmp_path)
    installation.add_program("python", sys.executable)
    return installation


def follow(installation: Installation, lines: str, **names: str) -> None:
    """Run *lines* of the page in *installation*, with the page's *names* replaced."""
    for name, value in {
        "/data/": "data/",
        "deploy/": f"{ROOT}/deploy/",
        "/backups": "backups",
        **names,
    }.items():
        lines = lines.replace(name, value)
    ran = installation.run("bash", "-euo", "pipefail", "-c", lines)
    assert ran.returncode == 0, f"{lines}\n{ran.stdout}\n{ran.stderr}"


def test_every_command_is_run_or_marked_as_not_run() -> None:
    assert UNMARKED.findall(PAGE) == []


@pytest.mark.parametrize("arguments", COMPOSE_LINE.findall(PAGE))
def test_compose_commands_and_services_exist(tmp_path: Path, arguments: str) -> None:
    services = read_project(make_project(tmp_path, f"JWT_SECRET_KEY={KEY}"))["services"]
    words = shlex.split(arguments.partition(" > ")[0])
    end = next((index for index, word in enumerate(words) if word in services), len(words))
    assert ("exec" in words) <= (end < len(words)), "the command names no service"
    ran = compose(tmp_path, (), *words[:end], "--help")
    assert (ran.returncode, ran.stdout[:6]) == (0, "Usage:"), ran.stderr


def test_command_on_the_page_sets_the_key(tmp_path: Path) -> None:
    make_project(tmp_path)
    lines = [
        line for line in PAGE.splitlines() if line.startswith("sed ") and line.endswith(" .env")
    ]
    subprocess.run(["sh", "-c", lines[0]], cwd=tmp_path, check=True)
    assert compose(tmp_path, BASE, "config", "--quiet").returncode == 0


def test_command_on_the_page_resets_the_count_of_one_user(installation: Installation) -> None:
    (line,) = [line for line in PAGE.splitlines() if "DELETE FROM upload_rate_limits" in line]
    *_, program = shlex.split(line)
    with open_service(Settings(data_dir=installation.data)) as service:
        for user in ("user-17", "another"):
            submit_to(service, user_id=user)
        ran = installation.run(sys.executable, "-c", program.replace("/data/", "data/"))
        assert ran.returncode == 0, ran.stderr
        with service.database.read() as connection:
            left = connection.exec_driver_sql("SELECT user_id FROM upload_rate_limits")
            assert left.scalars().all() == ["another"]


def test_migration_to_s3_keeps_every_image(installation: Installation, s3: str) -> None:
    bucket = prepare_s3(installation, s3)
    with run_service(installation.data) as place:
        path = image_path(place.make_image())
        image = place.ask(path).body
        follow(installation, block("first copy"), **{"my-images": bucket})
    follow(installation, block("last copy"), **{"my-images": bucket})
    check_switched(installation, bucket, path, image)


def test_migration_to_s3_by_sync_keeps_every_image(installation: Installation, s3: str) -> None:
    aws = require_program("aws")
    bucket = prepare_s3(installation, s3)
    installation.add_program("aws", f"{aws} --endpoint-url {s3}")
    path = installation.add_image()
    image = (installation.data / path[1:]).read_bytes()
    credentials = (
        "export AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_DEFAULT_REGION=eu-west-1\n"
    )
    follow(installation, credentials + block("sync"), **{"my-images": bucket})
    check_switched(installation, bucket, path, image)


def prepare_s3(installation: Installation, url: str) -> str:
    """Create a bucket and write the page's settings for it to `.env`."""
    bucket = f"images-{uuid.uuid4().hex}"
    open_s3(url).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    settings = block("settings").replace("…", "a") + f"S3_ENDPOINT_URL={url}\n"
    (installation.folder / ".env").write_text(settings)
    return bucket


def check_switched(installation: Installation, bucket: str, path: str, image: bytes) -> None:
    """Switch as the page says, delete the old files and fetch the image from its URL."""
    with (installation.folder / ".env").open("a") as file:
        file.write(block("settings", 1).replace("my-images", bucket))
    shutil.rmtree(installation.data / "storage")
    with run_service(installation.data) as place:
        answer = place.ask(path)
        assert answer.status == 307
        assert fetch(answer.headers["location"]) == image
        place.make_image()


def fetch(url: str) -> bytes:
    host, _, rest = url.removeprefix("http://").partition("/")
    return Place(int(host.rpartition(":")[2])).ask(f"/{rest}").body


def open_s3(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}
    return boto3.client("s3", endpoint_url=url, **keys)


def test_migration_to_postgresql_keeps_every_image(
    installation: Installation, postgres: int
) -> None:
    path = installation.add_image()
    url = create_database(postgres)
    on_the_page = "postgresql+psycopg://imageprocessor:PASSWORD@db.example.com/imageprocessor"
    follow(installation, block("copy database"), **{on_the_page: url})
    with run_service(installation.data, DATABASE_URL=url) as place:
        assert place.ask(path).status == 200


def test_backup_of_postgresql_is_restored(installation: Installation, postgres: int) -> None:
    url = create_database(postgres)
    path = installation.add_image(database_url=url)
    backup = installation.back_up(installation.folder / "backups", DATABASE_URL=url)
    restored = create_database(postgres)
    on_the_page = "postgresql://imageprocessor@db.example.com/imageprocessor"
    target = restored.replace("+psycopg", "")
    follow(installation, block("restore postgresql"), NEWEST=str(backup), **{on_the_page: target})
    with run_service(installation.data, DATABASE_URL=restored) as place:
        assert place.ask(path).status == 200


def test_backup_is_restored_and_upgraded(installation: Installation) -> None:
    path = installation.add_image()
    follow(installation, block("backup"))
    (newest,) = installation.folder.glob("backups/20*Z")
    shutil.rmtree(installation.data / "storage")
    follow(installation, block("restore") + block("upgrade"), NEWEST=str(newest))
    with run_service(installation.data) as place:
        assert place.ask(path).status == 200
