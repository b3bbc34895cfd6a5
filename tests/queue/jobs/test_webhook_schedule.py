from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imageprocessor.queue.jobs.webhook_schedule import Schedule

NOW = datetime(2026, 11, 28, tzinfo=UTC)
SCHEDULE = Schedule()


def seconds_until(moment: datetime | None) -> float:
    assert moment
    return (moment - NOW).total_seconds()


@pytest.mark.parametrize(
    ("attempts", "pause"),
    [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18000), (6, 36000), (7, 50400), (9, 86400)],
)
def test_pauses_between_tries_are_as_documented_give_or_take_a_fifth(
    attempts: int, pause: float
) -> None:
    drawn = [seconds_until(SCHEDULE.next_try(attempts, NOW)) / pause for _ in range(500)]
    assert min(drawn) == pytest.approx(0.8, abs=0.02)
    assert max(drawn) == pytest.approx(1.2, abs=0.02)


def test_tenth_try_is_the_last() -> None:
    assert SCHEDULE.next_try(9, NOW) is not None
    assert SCHEDULE.next_try(10, NOW) is None
    assert SCHEDULE.next_try(11, NOW) is None  # the tenth was claimed by a sender that was killed


def test_later_of_pause_and_retry_after_counts() -> None:
    assert seconds_until(SCHEDULE.next_try(1, NOW, 60.0)) == 60
    assert seconds_until(SCHEDULE.next_try(2, NOW, 60.0)) >= 240
    assert seconds_until(SCHEDULE.next_probe(NOW, NOW, 3600.0)) == 3600


@pytest.mark.parametrize(
    ("failed_for", "pause"), [(0, 5), (5, 5), (10, 10), (80, 80), (400, 300), (10**6, 300)]
)
def test_pauses_between_probes_grow_from_five_seconds_to_five_minutes(
    failed_for: float, pause: float
) -> None:
    since = NOW - timedelta(seconds=failed_for)
    drawn = seconds_until(SCHEDULE.next_probe(since, NOW))
    assert 0.8 * pause <= drawn <= 1.2 * pause
