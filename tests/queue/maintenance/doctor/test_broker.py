from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageprocessor.queue.dispatch import presence
from imageprocessor.queue.dispatch.broker import Broker
from imageprocessor.queue.dispatch.dispatcher import workers_directory
from imageprocessor.queue.maintenance.doctor.broker import check_queue
from imageprocessor.queue.maintenance.doctor.finding import Verdict
from imageprocessor.settings import Settings
from tests.servers import find_free_port, run_redis

OK, WARNING, WRONG = Verdict


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def with_redis(folder: Path, url: str) -> Settings:
    return Settings.model_validate(
        {"data_dir": folder, "queue_backend": "celery", "redis_url": url}
    )


def test_durable_redis_with_workers_is_ok(tmp_path: Path, durable: str) -> None:
    broker = Broker(durable)
    broker.announce_worker("celery@here", 3)
    broker.close()
    found = list(check_queue(with_redis(tmp_path, durable)))
    assert {finding.verdict for finding in found} == {OK}
    assert found[-1].found == "3 worker processes"


def test_redis_that_may_lose_messages_is_a_warning(tmp_path: Path) -> None:
    options = ("--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
    with run_redis(tmp_path, *options) as server:
        found = {
            f.name: f
            for f in check_queue(with_redis(tmp_path, f"redis://127.0.0.1:{server.port}/0"))
        }
    assert (found["broker memory"].verdict, found["broker file"].verdict) == (WARNING, WARNING)
    assert "allkeys-lru" in found["broker memory"].found
    assert "noeviction" in found["broker memory"].fix


def test_unreachable_redis_is_wrong_and_its_password_hidden(tmp_path: Path) -> None:
    (found,) = check_queue(with_redis(tmp_path, f"redis://:hunter2@127.0.0.1:{find_free_port()}/0"))
    assert found.verdict is WRONG
    assert "hunter2" not in str(found)


def test_workers_of_this_host_are_counted(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (found,) = check_queue(settings)
    assert found.verdict is WARNING
    assert "imageprocessor worker" in found.fix
    with presence.announce(workers_directory(settings), 4):
        (found,) = check_queue(settings)
    assert (found.verdict, found.found) == (OK, "4 worker processes")
