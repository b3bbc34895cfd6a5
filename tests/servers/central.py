"""Redis, PostgreSQL and S3 on one host, reachable from the other hosts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import require_program
from tests.servers import find_postgres
from tests.servers.hosts import Host

REDIS_PORT, POSTGRES_PORT, S3_PORT = 6379, 5432, 5000
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
NETWORK = "host all all 198.18.0.0/15 trust\n"


@contextmanager
def run_engines(host: Host, folder: Path) -> Iterator[None]:
    """Run Redis, PostgreSQL and S3 on *host* until the context ends.

    PostgreSQL's user ``postgres`` needs no password.
    """
    # PostgreSQL's data is not in `folder`: other users have no access to pytest's folders.
    with TemporaryDirectory() as data, ExitStack() as running:
        commands = {
            REDIS_PORT: [
                require_program("redis-server"),
                "--protected-mode",
                "no",
                "--dir",
                str(folder),
                "--save",
                "",
            ],
            POSTGRES_PORT: _prepare_postgres(Path(data)),
            S3_PORT: [sys.executable, "-m", "moto.server", "-H", host.address, "-p", str(S3_PORT)],
        }
        for port, command in commands.items():
            running.enter_context(
                host.run(command, folder / f"{port}.log", stop=signal.SIGINT, cwd="/")
            )
        for port in commands:
            host.wait_for_port(port)
        yield


def _prepare_postgres(data: Path) -> list[str]:
    """Initialize a server in the folder *data* and return the command that runs it."""
    shutil.chown(data, "postgres")
    initdb = [
        find_postgres("initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run([*AS_POSTGRES, *initdb], check=True, capture_output=True, cwd="/")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write(NETWORK)
    options = {"listen_addresses": "*", "unix_socket_directories": "", "fsync": "off"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [
        *AS_POSTGRES,
        find_postgres("postgres"),
        "-D",
        str(data),
        "-p",
        str(POSTGRES_PORT),
        *settings,
    ]
