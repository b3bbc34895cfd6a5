"""The commands of the image, with the environment from Compose, but without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.compose import make_project, read_project
from tests.deploy.container import DOCKERFILE, USER, contained, health_check, instruction
from tests.deploy.live import KEY, Place, image_path
from tests.servers import find_free_port, run_redis, run_server
from tests.servers.processes import wait_for

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Stack:
    data: Path
    api: Place
    environments: dict[str, dict[str, str]]  #: by service

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in a service's container, as `docker compose exec` would."""
        line = contained(self.data, self.environments[service], command)
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    data = folder / "data"
    data.mkdir(mode=0o750)
    os.chown(data, USER, USER)
    with run_redis(folder) as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        lines = (f"JWT_SECRET_KEY={KEY}", "WORKER_CONCURRENCY=1", f"REDIS_URL={url}")
        services = read_project(make_project(folder, *lines))["services"]
        environments = {name: services[name]["environment"] for name in ("api", "worker")}
        port = find_free_port()
        api = contained(
            data,
            environments["api"],
            [*instruction("ENTRYPOINT"), *services["api"]["command"], f"--port={port}"],
        )
        worker = contained(
            data,
            environments["worker"],
            [*instruction("ENTRYPOINT"), *services["worker"]["command"]],
        )
        with run_server(api, port, folder / "api.log"), (folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(worker, stdout=log, stderr=log)
            # Until then, SIGTERM would end it without the orderly stop that is checked below.
            wait_for(lambda: " ready." in (folder / "worker.log").read_text(), SECONDS)
            yield Stack(data, Place(port), environments)
            process.terminate()
            assert process.wait(SECONDS) == 0


def test_compose_runs_the_same_command_as_the_image(stack: Stack, tmp_path: Path) -> None:
    config = read_project(make_project(tmp_path, f"JWT_SECRET_KEY={KEY}"))
    assert config["services"]["api"]["command"] == instruction("CMD")


def test_image_runs_as_the_user_of_these_tests() -> None:
    assert f"\nUSER {USER}:{USER}\n" in DOCKERFILE


def test_upload_is_processed_by_the_worker(stack: Stack) -> None:
    image_id = stack.api.make_image()
    stored = stack.data / image_path(image_id).removeprefix("/")
    assert (stored.stat().st_uid, stored.read_bytes()[8:12]) == (USER, b"WEBP")


def test_health_check_of_the_image_passes_only_while_the_api_answers(
    stack: Stack,
) -> None:
    for port, passes in ((stack.api.port, True), (find_free_port(), False)):
        check = [part.replace("8000", str(port)) for part in health_check()]
        assert (stack.run("api", *check).returncode == 0) is passes


@pytest.mark.parametrize("place", ["/mnt/source", "/mnt/packages", "/mnt", "/", "/etc"])
def test_only_data_and_tmp_are_writable(stack: Stack, place: str) -> None:
    assert "Read-only file system" in stack.run("api", "touch", f"{place}/new").stderr
    assert stack.run("api", "touch", "/tmp/new").returncode == 0


def test_operator_commands_run_next_to_the_service(stack: Stack) -> None:
    image_id = stack.api.make_image()
    ran = stack.run("api", "imageprocessor", "jobs", "list", "--limit", "1", "--json")
    assert [job["image_id"] for job in json.loads(ran.stdout)] == [image_id], ran.stderr


def test_health_check_of_the_worker_passes(stack: Stack, tmp_path: Path) -> None:
    stack.api.make_image()  # wait until the worker runs
    check = read_project(make_project(tmp_path, f"JWT_SECRET_KEY={KEY}"))["services"]["worker"][
        "healthcheck"
    ]["test"]
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    line = check[1].replace("$$", "$").replace("$HOSTNAME", host)
    name, *arguments = line.split()
    assert stack.run("worker", name, *arguments).returncode == 0
