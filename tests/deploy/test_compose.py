from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import imageprocessor
from imageprocessor.environment import load_settings
from imageprocessor.queue.dispatch.celery_client import KILL_MARGIN_SECONDS, SOFT_SHUTDOWN_SECONDS
from imageprocessor.settings import Settings
from tests.deploy.compose import (
    BASE,
    DEVELOPMENT,
    KEY,
    PRODUCTION,
    ROOT,
    compose,
    make_project,
    read_project,
)
from tests.deploy.live import Place
from tests.servers import find_free_port, run_server
from tests.servers.processes import wait_for

WEBHOOK_SECRET = f"whsec_{'s' * 40}"
PROFILES = ("postgres", "s3", "flower")
OWN = ("api", "worker", "flower")
LINE = re.compile(r"^(?P<off>#?)(?P<name>[A-Z][A-Z0-9_]+)=(?P<value>.*)$", re.MULTILINE)
EXAMPLES = [match.groupdict() for match in LINE.finditer((ROOT / ".env.example").read_text())]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, f"JWT_SECRET_KEY={KEY}")


@pytest.mark.parametrize("files", [DEVELOPMENT, PRODUCTION], ids=["development", "production"])
def test_files_are_valid_with_every_profile(project: Path, files: tuple[str, ...]) -> None:
    services = read_project(project, files, PROFILES)["services"]
    assert set(services) == {"api", "worker", "redis", "flower", "postgres", "s3", "s3-bucket"}


def test_default_profile_is_sqlite_local_disk_and_celery(project: Path) -> None:
    config = read_project(project)
    assert set(config["services"]) == {"api", "worker", "redis", "flower"}
    settings = load_settings(config["services"]["api"]["environment"], project / "none")
    assert (settings.sqlite_path, settings.storage_backend) == (Path("/data/processor.db"), "local")
    assert (settings.queue_backend, settings.redis_url.get_secret_value()) == (
        "celery",
        "redis://redis:6379/0",
    )
    for name in ("api", "worker"):
        assert [
            (mount["source"], mount["target"]) for mount in config["services"][name]["volumes"]
        ] == [("data", "/data")]


def test_example_without_a_key_shows_how_to_generate_one(tmp_path: Path) -> None:
    ran = compose(make_project(tmp_path), BASE, "config", "--quiet")
    assert (ran.returncode, "openssl rand -hex 32" in ran.stderr) == (1, True)


def test_worker_has_no_signing_key(project: Path) -> None:
    with (project / ".env").open("a") as env_file:
        env_file.write(f"\nWEBHOOK_URL=https://a.example/\nWEBHOOK_SECRET={WEBHOOK_SECRET}\n")
    services = read_project(project)["services"]
    api, worker = (
        load_settings(services[name]["environment"], project / "none") for name in ("api", "worker")
    )
    assert api.webhook_url
    assert (worker.jwt_secret_key, worker.webhook_url, worker.webhook_secret) == (None, None, None)


def test_workers_can_be_scaled_without_conflicts(project: Path) -> None:
    worker = read_project(project)["services"]["worker"]
    assert {"ports", "container_name", "hostname"} & set(worker) == set()


@pytest.mark.parametrize("files", [DEVELOPMENT, PRODUCTION], ids=["development", "production"])
def test_ports_are_open_to_this_machine_only(project: Path, files: tuple[str, ...]) -> None:
    services = read_project(project, files, PROFILES)["services"]
    ports = {
        name: (port["host_ip"], port["published"])
        for name, found in services.items()
        for port in found.get("ports", ())
    }
    assert ports == {
        "api": ("127.0.0.1", "8000"),
        "flower": ("127.0.0.1", "5555"),
        "s3": ("127.0.0.1", "7070"),
    }


def test_production_starts_no_flower(project: Path) -> None:
    assert "flower" not in read_project(project, PRODUCTION)["services"]


@pytest.mark.parametrize("name", OWN)
def test_production_container_has_few_privileges(project: Path, name: str) -> None:
    service = read_project(project, PRODUCTION, PROFILES)["services"][name]
    assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (
        True,
        ["ALL"],
        ["/tmp"],
    )
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_production_restarts_services_and_rotates_logs(project: Path) -> None:
    services = read_project(project, PRODUCTION, PROFILES)["services"]
    rotation = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    assert [name for name, service in services.items() if service["logging"] != rotation] == []
    assert {
        name for name, service in services.items() if service.get("restart") != "unless-stopped"
    } == {"s3-bucket"}


@pytest.mark.parametrize("files", [DEVELOPMENT, PRODUCTION], ids=["development", "production"])
def test_worker_can_finish_its_job_before_it_is_killed(
    project: Path, files: tuple[str, ...]
) -> None:
    services = read_project(project, files)["services"]
    seconds = int(services["worker"]["environment"]["JOB_TIMEOUT_SECONDS"]) + KILL_MARGIN_SECONDS
    assert parse_duration(services["worker"]["stop_grace_period"]) > max(
        seconds, SOFT_SHUTDOWN_SECONDS
    )


def parse_duration(text: str) -> int:
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text).groups()  # type: ignore[union-attr]
    return int(minutes or 0) * 60 + int(seconds or 0)


def test_plain_command_reads_the_development_files(project: Path) -> None:
    plain = json.loads(compose(project, (), "config", "--format=json").stdout)
    assert plain == read_project(project, DEVELOPMENT)


def test_file_setting_of_the_example_selects_production(project: Path) -> None:
    (line,) = [example for example in EXAMPLES if example["name"] == "COMPOSE_FILE"]
    make_project(project, f"JWT_SECRET_KEY={KEY}", f"COMPOSE_FILE={line['value']}")
    chosen = json.loads(compose(project, (), "config", "--format=json").stdout)
    assert chosen == read_project(project, PRODUCTION)


@pytest.mark.parametrize(("files", "mounts"), [(DEVELOPMENT, True), (PRODUCTION, False)])
def test_only_development_runs_the_code_of_the_checkout(
    project: Path, files: tuple[str, ...], mounts: bool
) -> None:
    services = read_project(project, files)["services"]
    for name in ("api", "worker"):
        sources = {
            mount["target"]: mount["source"]
            for mount in services[name]["volumes"]
            if mount["type"] == "bind" and mount["read_only"]
        }
        assert sources == ({"/src": str(project / "src")} if mounts else {})
        assert services[name]["environment"].get("PYTHONPATH") == ("/src" if mounts else None)
    assert ("--reload" in services["api"]["command"]) is mounts


def test_worker_in_development_is_restarted_by_watchfiles(project: Path) -> None:
    original = read_project(project)["services"]["worker"]["command"]
    worker = read_project(project, DEVELOPMENT)["services"]["worker"]
    seconds = int(worker["environment"]["JOB_TIMEOUT_SECONDS"]) + KILL_MARGIN_SECONDS
    assert worker["command"] == [" ".join(["imageprocessor", *original]), "/src"]
    assert worker["entrypoint"] == [
        *["watchfiles", "--filter", "python", "--sigint-timeout", str(seconds)]
    ]


def test_changed_code_is_reloaded(project: Path) -> None:
    """Run the API as in development, with a copy of the code in place of the mounted one."""
    source = project / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    command = read_project(project, DEVELOPMENT)["services"]["api"]["command"]
    port = find_free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(source),
        "DATA_DIR": str(project / "data"),
        "WORKER_CONCURRENCY": "0",
    }
    with run_server(
        [sys.executable, "-m", "imageprocessor", *command, "--port", str(port)],
        port,
        project / "api.log",
        env=environment,
        cwd=project,
    ):
        wait_for(lambda: read_version(port) == imageprocessor.__version__)
        package = source / "imageprocessor/__init__.py"
        package.write_text(package.read_text() + '\n__version__ = "changed"\n')
        wait_for(lambda: read_version(port) == "changed")


def read_version(port: int) -> object:
    with suppress(OSError):
        return json.loads(Place(port).ask("/api/v1/health").body)["version"]
    return None


def test_redis_evicts_nothing_and_keeps_data_across_restarts(project: Path) -> None:
    command = " ".join(read_project(project)["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_bucket_of_the_trial_server_is_created_once(project: Path, s3: str) -> None:
    bucket = f"images-{uuid.uuid4().hex}"
    keys = ["AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"]
    make_project(
        project, f"JWT_SECRET_KEY={KEY}", f"S3_BUCKET={bucket}", f"S3_ENDPOINT_URL={s3}", *keys
    )
    service = read_project(project, profiles=["s3"])["services"]["s3-bucket"]
    program = [sys.executable, *service["entrypoint"][1:], *service["command"]]
    for _ in range(2):
        subprocess.run(program, check=True, env={**os.environ, **service["environment"]})
    assert list_buckets(s3).count(bucket) == 1


def list_buckets(url: str) -> list[str]:
    import boto3

    client = boto3.client("s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b")
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_every_name_in_the_example_is_a_setting_or_used_by_compose() -> None:
    texts = [(ROOT / name).read_text() for name in PRODUCTION]
    compose_only = {"COMPOSE_FILE", "COMPOSE_PROFILES", *re.findall(r"\$\{(\w+):-", "".join(texts))}
    settings = {name.upper() for name in Settings.model_fields}
    assert {example["name"] for example in EXAMPLES} - settings - compose_only == set()


def test_active_lines_of_the_example_are_the_defaults() -> None:
    given = load({example["name"]: example["value"] for example in EXAMPLES if not example["off"]})
    assert given == load({})


def test_all_lines_of_the_example_are_accepted() -> None:
    load({example["name"]: example["value"] for example in EXAMPLES})


def load(values: dict[str, Any]) -> Settings:
    keys = {"JWT_SECRET_KEY": KEY, "WEBHOOK_SECRET": WEBHOOK_SECRET}
    return load_settings({**values, **keys}, Path("none"))
