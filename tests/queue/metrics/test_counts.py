from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imageprocessor.queue.metrics import counts as module
from imageprocessor.queue.metrics.counts import SLOT_BYTES, TABLE_NAME, Counts, read_totals
from imageprocessor.queue.metrics.families import JOBS, STAGE_SECONDS, UPLOAD_BYTES, UPLOADS

ACCEPTED = (("uploads", "accepted"), 1)
REPEATED = (("uploads", "repeated"), 1)
# Counts for ever, but says when it has counted ten.
COUNT = """
import sys
from itertools import count
from pathlib import Path
from imageprocessor.queue.metrics.counts import Counts
from imageprocessor.queue.metrics.families import UPLOADS
counts = Counts(Path(sys.argv[1]))
for number in count(1):
    counts.add(UPLOADS, "accepted")
    if number == 10:
        print(flush=True)
"""


@pytest.fixture
def opened() -> Iterator[list[Counts]]:
    """Counts to close at the end, like processes that end."""
    found: list[Counts] = []
    yield found
    for counts in found:
        counts.close()


@pytest.fixture
def counts(tmp_path: Path, opened: list[Counts]) -> Counts:
    opened.append(Counts(tmp_path))
    return opened[0]


def list_slots(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.counts"))


def test_nothing_is_counted_without_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = Counts()
    counts.add(UPLOADS, "accepted")
    counts.observe(UPLOAD_BYTES, 5)
    assert (counts.is_on, list(tmp_path.iterdir())) == (False, [])


def test_a_process_that_counts_nothing_takes_no_slot(counts: Counts, tmp_path: Path) -> None:
    assert (counts.is_on, list(tmp_path.iterdir()), read_totals(tmp_path)) == (True, [], {})


def test_counts_of_all_processes_are_added(tmp_path: Path, opened: list[Counts]) -> None:
    opened += [Counts(tmp_path) for _ in range(3)]
    for number, counts in enumerate(opened):
        counts.add(JOBS, "failed", f"code_{number}")  # each begins with another series
        counts.add(UPLOADS, "accepted")
        counts.observe(UPLOAD_BYTES, 20_000)
    totals = read_totals(tmp_path)
    assert totals[ACCEPTED] == [3.0]
    assert totals[("jobs", "failed", "code_2"), 1] == [1.0]
    assert totals[("upload_bytes",), 13] == [60_000.0, 0.0, 3.0, *[0.0] * 10]
    assert list_slots(tmp_path) == ["0.counts", "1.counts", "2.counts"]


def test_value_on_a_bound_belongs_to_its_bucket(counts: Counts, tmp_path: Path) -> None:
    for seconds in (0.001, 0.0011, 31):
        counts.observe(STAGE_SECONDS, seconds, "load")
    _, *buckets = read_totals(tmp_path)[("stage_duration_seconds", "load"), 16]
    assert (buckets[0], buckets[1], buckets[-1], sum(buckets)) == (1, 1, 1, 3)


def test_histogram_with_other_buckets_is_another_series(
    tmp_path: Path, opened: list[Counts]
) -> None:
    opened += [Counts(tmp_path), Counts(tmp_path)]
    fewer = replace(UPLOAD_BYTES, bounds=UPLOAD_BYTES.bounds[:3])
    opened[0].observe(fewer, 5)
    opened[1].observe(UPLOAD_BYTES, 7)
    opened[0].observe(fewer, 5)
    totals = read_totals(tmp_path)
    assert totals[("upload_bytes",), 5] == [10.0, 2.0, 0.0, 0.0, 0.0]
    assert totals[("upload_bytes",), 13] == [7.0, 1.0, *[0.0] * 11]


def test_next_process_continues_the_slot(tmp_path: Path, opened: list[Counts]) -> None:
    for _ in range(5):
        counts = Counts(tmp_path)
        counts.add(UPLOADS, "accepted")
        counts.close()
        counts.add(UPLOADS, "accepted")  # too late: the slot may be another's
    assert (read_totals(tmp_path)[ACCEPTED], list_slots(tmp_path)) == ([5.0], ["0.counts"])


def test_killed_processes_leave_their_counts_and_their_slots(tmp_path: Path) -> None:
    seen = 0.0
    for _ in range(2):
        command = [sys.executable, "-c", COUNT, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline()
            while_alive = read_totals(tmp_path)[ACCEPTED][0]
            assert while_alive >= seen + 10
            process.kill()
        seen = read_totals(tmp_path)[ACCEPTED][0]
        assert process.returncode == -signal.SIGKILL
        assert seen >= while_alive
    assert list_slots(tmp_path) == ["0.counts"]


def test_threads_lose_no_count(counts: Counts, tmp_path: Path) -> None:
    def count() -> None:
        for _ in range(2000):
            counts.add(UPLOADS, "accepted")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert read_totals(tmp_path)[ACCEPTED] == [8000.0]


def test_line_that_was_not_written_to_its_end_is_replaced(
    tmp_path: Path, opened: list[Counts]
) -> None:
    opened += [Counts(tmp_path), Counts(tmp_path)]
    opened[0].add(UPLOADS, "accepted")
    with (tmp_path / TABLE_NAME).open("ab") as table:
        table.write(b"1\tuploads\trep")
    assert read_totals(tmp_path) == {ACCEPTED: [1.0]}
    opened[1].add(UPLOADS, "repeated")
    assert read_totals(tmp_path) == {ACCEPTED: [1.0], REPEATED: [1.0]}


def test_slot_of_a_lost_table_starts_again(tmp_path: Path, opened: list[Counts]) -> None:
    first = Counts(tmp_path)
    first.add(UPLOADS, "accepted")
    first.close()
    (tmp_path / TABLE_NAME).unlink()
    opened.append(Counts(tmp_path))
    opened[0].add(UPLOADS, "repeated")
    assert read_totals(tmp_path) == {REPEATED: [1.0]}


def test_slot_that_is_not_yet_whole_is_not_read(counts: Counts, tmp_path: Path) -> None:
    counts.add(UPLOADS, "accepted")
    (tmp_path / "1.counts").write_bytes(b"")
    assert read_totals(tmp_path)[ACCEPTED] == [1.0]


def test_space_of_a_slot_is_allocated(counts: Counts, tmp_path: Path) -> None:
    counts.add(UPLOADS, "accepted")
    assert (tmp_path / "0.counts").stat().st_blocks * 512 >= SLOT_BYTES


def test_fault_is_logged_once_and_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    counts = Counts(tmp_path / "file")
    with capture_logs() as logs:
        for _ in range(3):
            counts.add(UPLOADS, "accepted")
            counts.observe(UPLOAD_BYTES, 5)
    assert [(line["event"], line["metric"]) for line in logs] == [
        ("not_counted", "uploads"),
        ("not_counted", "upload_bytes"),
    ]


def test_series_without_room_are_not_counted(
    counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NUMBERS", 3)
    with capture_logs() as logs:
        for code in ("a", "b", "c", "c"):
            counts.add(JOBS, "failed", code)
    assert [line["event"] for line in logs] == ["not_counted"]
    assert read_totals(tmp_path)[("jobs", "failed", "b"), 1] == [1.0]
