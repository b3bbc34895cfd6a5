from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from imageprocessor.queue.dispatch import presence

ANNOUNCE = """
import sys, time, pathlib
from imageprocessor.queue.dispatch import presence
with presence.announce(pathlib.Path(sys.argv[1]), 3) as me:
    print(me.supervisor_id, flush=True)
    time.sleep(60)
"""


def test_live_supervisor_is_listed_until_it_ends(tmp_path: Path) -> None:
    with presence.announce(tmp_path, 2) as me:
        assert presence.list_live(tmp_path) == {me.supervisor_id: 2}
        assert presence.list_dead(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_killed_supervisor_is_listed_as_dead(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    supervisor_id = process.stdout.readline().strip()
    assert presence.list_live(tmp_path) == {supervisor_id: 3}
    process.kill()
    process.communicate()
    assert presence.list_dead(tmp_path) == [supervisor_id]
    presence.forget(tmp_path, supervisor_id)
    assert list(tmp_path.iterdir()) == []


def test_wake_all_wakes_every_supervisor_until_it_drains(tmp_path: Path) -> None:
    with presence.announce(tmp_path, 1) as one, presence.announce(tmp_path, 1) as two:
        descriptors = [one.wake_descriptor, two.wake_descriptor]
        assert select.select(descriptors, [], [], 0)[0] == []
        presence.wake_all(tmp_path)
        assert select.select(descriptors, [], [], 0)[0] == descriptors
        one.drain()
        assert select.select(descriptors, [], [], 0)[0] == [two.wake_descriptor]


def test_new_supervisor_is_woken_although_the_mtime_is_unchanged(tmp_path: Path) -> None:
    presence.wake_all(tmp_path)
    before = tmp_path.stat().st_mtime_ns
    with presence.announce(tmp_path, 1) as late:
        os.utime(tmp_path, ns=(before, before))
        presence.wake_all(tmp_path)
        assert select.select([late.wake_descriptor], [], [], 0)[0]


def test_wake_never_blocks_however_often_it_is_called(tmp_path: Path) -> None:
    with presence.announce(tmp_path, 1) as me:
        for _ in range(70_000):
            me.wake()
        presence.wake_all(tmp_path)


def test_wake_all_skips_the_fifo_of_a_dead_supervisor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dead.wake")
    presence.wake_all(tmp_path)


@pytest.mark.parametrize("name", ["absent", "file"])
def test_wake_all_ignores_a_directory_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    presence.wake_all(tmp_path / name)
