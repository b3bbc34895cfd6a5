from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import PERIOD, read_throughput


def test_throughput_has_every_ten_minutes_of_a_day(
    service: Service, done: Job, set_clock: Callable[[timedelta], None]
) -> None:
    assert done.completed_at
    for later in (timedelta(), timedelta(minutes=25), timedelta(hours=23, minutes=40)):
        set_clock(later)
        times, counts = zip(*read_throughput(service), strict=True)
        assert times == tuple(times[0] + PERIOD * number for number in range(144))
        assert times[-1] <= clock.utc_now() < times[-1] + PERIOD
        expected = [time <= done.completed_at < time + PERIOD for time in times]
        assert list(counts) == expected
        assert sum(counts) == 1
    set_clock(timedelta(hours=24, minutes=10))
    assert {count for _, count in read_throughput(service)} == {0}
