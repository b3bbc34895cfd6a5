"""Servers for tests, each on a free port of 127.0.0.1 until its context ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import missing, require_program

START_SECONDS = 60


@dataclass(slots=True)
class Server:
    """A running server and the function that starts it again after it was killed."""

    port: int
    process: subprocess.Popen[bytes]
    start: Callable[[], subprocess.Popen[bytes]]

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start the server again with its existing data."""
        self.process = self.start()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def run_server(
    command: Sequence[str],
    port: int,
    log: Path,
    is_ready: Callable[[int], bool] = listens,
    *,
    stop: int = signal.SIGTERM,
    **options: Any,
) -> Iterator[Server]:
    """Run *command*, which listens on *port*, until the context ends; log its output to *log*.

    Then send it the signal *stop*.
    """

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, **options
            )
        wait_for_port(port, process, log, is_ready)
        return process

    server = Server(port, start(), start)
    try:
        yield server
    finally:
        server.process.send_signal(stop)
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for_port(
    port: int,
    process: subprocess.Popen[bytes],
    log: Path,
    is_ready: Callable[[int], bool] = listens,
) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if is_ready(port):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(
        f"{process.args!r} does not listen on port {port}: {log.read_text()[-2000:]}"
    )


@contextmanager
def run_redis(folder: Path, *options: str) -> Iterator[Server]:
    """Run redis-server; its URL is ``redis://127.0.0.1:PORT/0``."""
    port = find_free_port()
    command = [
        require_program("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
    ]
    durable = ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
    with run_server([*command, *durable, *options], port, folder / "redis.log") as server:
        yield server


@contextmanager
def run_postgres(folder: Path) -> Iterator[Server]:
    """Run PostgreSQL; its user ``postgres`` needs no password.

    When root runs the tests, the server runs as the system user ``postgres``, which Debian creates.
    Its files are in ``folder / "postgres"``.
    """
    port = find_free_port()
    user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
    # Not in `folder`: other users have no access to pytest's folders.
    place = tempfile.TemporaryDirectory(prefix="postgres-")
    data = place.name
    (folder / "postgres").symlink_to(data)
    if user:
        shutil.chown(data, "postgres")
    initdb = [
        find_postgres("initdb"),
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **user)
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "200",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    command = [find_postgres("postgres"), "-D", data, "-p", str(port), *settings]
    log = folder / "postgres.log"
    stop = signal.SIGQUIT  # neither wait for clients, as at SIGTERM, nor write to disk
    with (
        place,
        run_server(command, port, log, _accepts_clients, stop=stop, cwd="/", **user) as server,
    ):
        yield server


def create_database(port: int) -> str:
    """Create a new database on the PostgreSQL server at *port* and return its URL."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(
        f"postgresql://postgres@127.0.0.1:{port}/postgres", autocommit=True
    ) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{name}"


@contextmanager
def run_s3(folder: Path) -> Iterator[Server]:
    """Run moto's S3 server; its URL is ``http://127.0.0.1:PORT``; it accepts any credentials."""
    port = find_free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with run_server(command, port, folder / "s3.log") as server:
        yield server


def _accepts_clients(port: int) -> bool:
    """Return whether PostgreSQL accepts clients; it listens before it has replayed its WAL."""
    command = [find_postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(command, check=False).returncode == 0


def find_postgres(program: str) -> str:
    """Return the path of a PostgreSQL program, which Debian keeps off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return shutil.which(program) or (
        str(found[-1]) if found else missing(f"PostgreSQL's {program!r} is not installed")
    )
