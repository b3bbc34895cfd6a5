"""Uploads through nginx, with pauses between them or while the service behind it restarts.

At full length, outside the test suite: ``python -m tests.deploy.traffic pauses``, or
``restarts 10``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.deploy.live import KEY, Answer, Place, run_service
from tests.images import encode, photo
from tests.servers import Server, find_free_port, run_redis, run_server
from tests.servers.nginx import Nginx, run_nginx
from tests.servers.processes import wait_for

IMAGE = encode(photo(320, 240), "JPEG")
NO_LIMIT = {"RATE_LIMIT_MAX_UPLOADS": "1000000"}


def secure(nginx: Nginx) -> Place:
    return Place(nginx.https_port, nginx.trust)


def upload_in_rounds(place: Place, pauses: Sequence[float], count: int) -> list[Answer]:
    """Send *count* uploads at once, before and after each pause, and return all answers.

    So each connection of the proxy to the service is idle for about each of *pauses*.
    """
    answers: list[Answer] = []
    with ThreadPoolExecutor(count) as pool:
        for pause in (0.0, *pauses):
            time.sleep(pause)
            answers += pool.map(place.upload, [IMAGE] * count)
    return answers


@contextmanager
def steady_uploads(place: Place, per_second: float) -> Iterator[list[Answer]]:
    """Send uploads at a steady rate until the end of the context; their answers are appended."""
    answers: list[Answer] = []
    ended = threading.Event()

    def send_all(pool: ThreadPoolExecutor) -> None:
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            pool.submit(lambda: answers.append(place.upload(IMAGE)))
            due += 1 / per_second

    with ThreadPoolExecutor(64) as pool:
        sender = threading.Thread(target=send_all, args=(pool,))
        sender.start()
        try:
            yield answers
        finally:
            ended.set()
            sender.join()


def count_statuses(answers: Sequence[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def restart(server: Server) -> None:
    """Stop *server* as a supervisor does, and start it again with the same command."""
    stop(server.process)
    server.restart()


def is_ready(port: int) -> bool:
    try:
        return Place(port).ask("/readyz").status == 200
    except OSError:
        return False


@contextmanager
def run_apis(folder: Path, count: int, **environment: str) -> Iterator[list[Server]]:
    """Run *count* APIs on one data folder."""
    settings = {"DATA_DIR": str(folder / "data"), "JWT_SECRET_KEY": KEY, **NO_LIMIT, **environment}
    with ExitStack() as running:
        apis = []
        for number in range(count):
            port = find_free_port()
            command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
            api = run_server(
                command,
                port,
                folder / f"api-{number}.log",
                is_ready,
                env={**os.environ, **settings},
                cwd=folder,
            )
            apis.append(running.enter_context(api))
        yield apis


@contextmanager
def run_balancer(
    folder: Path, ports: Sequence[int], changes: dict[str, str] | None = None
) -> Iterator[Place]:
    """Run nginx in front of the services on *ports*."""
    first = f"server 127.0.0.1:{ports[0]} max_fails=0;"
    lines = [first.replace(str(ports[0]), str(port)) for port in ports]
    with run_nginx(folder, ports[0], folder, {first: "\n".join(lines), **(changes or {})}) as nginx:
        yield secure(nginx)


def check_pauses(folder: Path, seconds: Sequence[float], per_round: int) -> str:
    """Upload with pauses around *seconds*, nginx's and the service's real keep-alive times."""
    offsets = (-1, -0.5, -0.1, 0, 0.1, 0.5, 1)
    pauses = [second + offset for second in seconds for offset in offsets]
    room = {"keepalive 32;": f"keepalive {per_round};"}
    with (
        run_service(folder / "data", WORKER_CONCURRENCY="0", **NO_LIMIT) as service,
        run_balancer(folder / "nginx", [service.port], room) as place,
    ):
        return f"statuses {count_statuses(upload_in_rounds(place, pauses, per_round))}"


def check_restarts(folder: Path, rounds: int, per_second: float) -> str:
    """Restart two APIs and two Celery workers in turn, under steady uploads."""
    with run_redis(folder) as redis, ExitStack() as running:
        settings = {
            "QUEUE_BACKEND": "celery",
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "WORKER_CONCURRENCY": "1",
            "IMAGE_SIZES": '{"thumbnail": 100}',
        }
        own = {"DATA_DIR": str(folder / "data"), "JWT_SECRET_KEY": KEY}
        apis = running.enter_context(run_apis(folder, 2, **settings))
        ports = [api.port for api in apis]
        place = running.enter_context(run_balancer(folder / "nginx", ports))
        workers = [start_worker(folder, {**os.environ, **settings, **own}) for _ in range(2)]
        with steady_uploads(place, per_second) as answers:
            for _ in range(rounds):
                for api in apis:
                    restart(api)
                for number, worker in enumerate(workers):
                    stop(worker)
                    workers[number] = start_worker(folder, {**os.environ, **settings, **own})
                sys.stdout.write(f"{count_statuses(answers)}\n")
                sys.stdout.flush()
        ids = [json.loads(answer.body)["job_id"] for answer in answers if answer.status == 202]
        ends = Counter(wait_for_end(place, job_id) for job_id in ids)
        for worker in workers:
            stop(worker)
    return f"statuses {count_statuses(answers)}, jobs {dict(ends)}"


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0


def start_worker(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    log = folder / f"worker-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "imageprocessor", "worker"],
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
        )
    wait_for(lambda: " ready." in log.read_text())
    return process


def wait_for_end(place: Place, job_id: str) -> str:
    for _ in range(600):
        status = json.loads(place.ask(f"/api/v1/images/jobs/{job_id}").body)["status"]
        if status in {"completed", "failed"}:
            return str(status)
        time.sleep(0.1)
    return "lost"


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        if sys.argv[1] == "pauses":
            found = check_pauses(Path(name), [60, 75], 150)
        else:
            found = check_restarts(Path(name), rounds=int(sys.argv[2]), per_second=8)
    sys.stdout.write(f"{found}\n")
