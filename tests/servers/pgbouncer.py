"""PgBouncer in front of PostgreSQL, with `deploy/pgbouncer.ini` on a free port."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import require_program
from tests.servers import Server, find_free_port, run_server

CONFIGURATION = Path(__file__).parents[2] / "deploy/pgbouncer.ini"
PASSWORD = "only-for-tests"
POOL_SIZE = 4


@contextmanager
def run_pgbouncer(
    folder: Path, postgres_port: int, changes: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run PgBouncer in front of the server at *postgres_port*, with *changes* to its configuration.

    Its user ``postgres`` has the password PASSWORD. When root runs the tests, PgBouncer runs as the
    system user ``postgres``, because it refuses to run as root.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    program = program or require_program("pgbouncer")
    port = find_free_port()
    # Not in `folder`: other users have no access to pytest's folders.
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as place:
        texts = {
            "imageprocessor = host=db.example.com": f"* = host=127.0.0.1 port={postgres_port}",
            "listen_addr = *": "listen_addr = 127.0.0.1",
            "listen_port = 6432": f"listen_port = {port}",
            "/etc/pgbouncer": place,
            "/var/log/postgresql": place,
            "/run/postgresql": place,
            "default_pool_size = 20": f"default_pool_size = {POOL_SIZE}",
            **(changes or {}),
        }
        _write(Path(place), texts)
        user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
        if user:
            for path in (Path(place), *Path(place).iterdir()):
                shutil.chown(path, "postgres")
        command = [program, f"{place}/pgbouncer.ini"]
        with run_server(command, port, folder / "pgbouncer.log", cwd="/", **user) as server:
            yield server


def name_pooled(url: str, pgbouncer_port: int) -> str:
    """Return the *url* of a PostgreSQL database as clients of PgBouncer write it."""
    address, _, name = url.rpartition("/")
    scheme, _, _ = address.partition("://")
    return f"{scheme}://postgres:{PASSWORD}@127.0.0.1:{pgbouncer_port}/{name}"


def _write(folder: Path, changes: Mapping[str, str]) -> None:
    """Write the configuration with *changes*, each of which must apply, and the list of users."""
    text = CONFIGURATION.read_text()
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in {CONFIGURATION}"
        text = text.replace(old, new)
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "userlist.txt").write_text(f'"postgres" "{PASSWORD}"\n')
