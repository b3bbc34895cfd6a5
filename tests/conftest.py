"""Isolation of every test: no settings from the environment, no proxy for loopback."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import pytest
from hypothesis import settings as hypothesis_settings

if TYPE_CHECKING:
    from tests.servers.strict_s3 import StrictS3

LONGEST_ID = 100  #: characters of a parameter in the id of a test

# No deadlines: a slow machine is not a fault. In CI, examples are the same in every run, so that a
# failure can be reproduced.
hypothesis_settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis_settings.register_profile("local", deadline=None)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return a short id for a long value: pytest puts ids into the environment of processes.

    It is the same in each process, even if the value is not. pytest numbers repeated ids.
    """
    is_long = isinstance(val, bytes | str) and len(val) > LONGEST_ID
    return argname if is_long else None


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in _setting_names():
            environment.delenv(name, raising=False)
            environment.delenv(f"{name}_FILE", raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            environment.setenv(name, "127.0.0.1,localhost,::1")
        yield


@pytest.fixture(autouse=True, scope="session")
def _loggers_follow_their_configuration() -> Iterator[None]:
    """Stop loggers from caching their configuration, so that other tests can capture lines."""
    if find_spec("structlog") is None:
        yield
        return
    import structlog

    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        options = {"cache_logger_on_first_use": False}
        patch.setattr(
            structlog,
            "configure",
            lambda *given, **named: configure(*given, **{**named, **options}),
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Allow SIGINT in started processes, even if the shell that runs the tests ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(reason: str) -> NoReturn:
    """Skip the test because of *reason*, or fail it if REQUIRE_SERVICES=1."""
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"REQUIRE_SERVICES=1, but {reason}")
    pytest.skip(reason)


def require_program(name: str) -> str:
    """Return the path of the program *name*; without it, skip or fail the test like `missing`."""
    return shutil.which(name) or missing(f"the program {name!r} is not installed")


def _setting_names() -> list[str]:
    if find_spec("pydantic") is None:  # installed without extras: nothing reads the environment
        return []
    from imageprocessor.settings import Settings

    return [name.upper() for name in Settings.model_fields]


@pytest.fixture(scope="session")
def add_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Return a function that puts a SQLite database with tables, without rows, into a data folder.

    It copies one: to create the tables takes 0.13 s of CPU time and several flushes. All copies
    have the same identity.
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.settings import Settings

    original = Settings(data_dir=tmp_path_factory.mktemp("sqlite") / "data")
    with open_service(original):
        pass

    def copy(data_dir: Path) -> None:
        data_dir.mkdir(mode=0o750, parents=True)
        shutil.copyfile(original.database_path, data_dir / original.database_path.name)

    return copy


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a running PostgreSQL server; `create_database` creates databases on it."""
    from tests.servers import run_postgres

    with run_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server.port


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running S3 server without buckets; it accepts any keys."""
    from botocore.loaders import create_loader

    from tests.servers import run_s3

    loader = create_loader()  # shared: every session of boto3 would read its files again
    with pytest.MonkeyPatch.context() as patch, run_s3(tmp_path_factory.mktemp("s3")) as server:
        patch.setattr("botocore.session.create_loader", lambda _path: loader)
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def strict_s3(s3: str) -> Iterator[StrictS3]:
    """The same S3 server as `s3`, behind one that checks signatures and policies."""
    from tests.servers.strict_s3 import run_strict_s3

    with run_strict_s3(urlsplit(s3).port or 0) as server:
        yield server
