from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from imageprocessor.errors import (
    RateLimitedError,
)
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import Sender, Upload, check_quota, submit
from tests.queue.conftest import with_settings
from tests.uploads import list_all_jobs

Receive = Callable[..., Upload]


def all_jobs(service: Service) -> list[Job]:
    with service.database.read() as connection:
        return list_all_jobs(connection)


def remaining(service: Service, user_id: str = "ann") -> int:
    return check_quota(service, Sender(user_id)).remaining


def test_parallel_uploads_at_the_limit_are_counted_exactly(
    service: Service, receive: Receive
) -> None:
    service = with_settings(service, rate_limit_max_uploads=50)

    def send(upload: Upload) -> bool:
        try:
            submit(service, upload, Sender("ann"))
        except RateLimitedError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        accepted = list(pool.map(send, [receive() for _ in range(100)]))
    assert sum(accepted) == 50
    assert len(all_jobs(service)) == 50
    assert {stored.key for stored in service.staging.list()} == {
        job.staging_key for job in all_jobs(service)
    }


def test_full_window_names_its_end_and_a_new_window_opens(
    service: Service, receive: Receive, set_clock: Callable[[timedelta], None]
) -> None:
    service = with_settings(service, rate_limit_max_uploads=1)
    submit(service, receive(), Sender("ann"))
    with pytest.raises(RateLimitedError) as caught:
        check_quota(service, Sender("ann"))
    assert caught.value.reset_at.minute == 0
    assert remaining(service, "bob") == 1
    set_clock(timedelta(hours=1))
    assert remaining(service) == 1
