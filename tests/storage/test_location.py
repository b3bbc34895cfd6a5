from __future__ import annotations

from pathlib import Path

import pytest

from imageprocessor.errors import SettingsError
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.location import open_storage
from imageprocessor.storage.memory import MemoryStorage


def test_local_location_opens_that_directory(tmp_path: Path) -> None:
    store = open_storage(f"local://{tmp_path}/my images/50%")
    assert isinstance(store, LocalStorage)
    assert store.root == tmp_path / "my images" / "50%"
    assert store.root.is_dir()


def test_memory_location_opens_an_empty_store_each_time() -> None:
    first, second = open_storage("memory://"), open_storage("memory://")
    first.put("1", b"bytes")
    assert isinstance(first, MemoryStorage)
    assert not second.exists("1")


@pytest.mark.parametrize("location", ["", "images", "/var/lib/images", "local://images", "local:", "ftp://x", "s3://x"])
def test_another_location_is_refused_with_the_accepted_forms(location: str) -> None:
    with pytest.raises(SettingsError, match=r"'local:///absolute/path' or 'memory://'") as caught:
        open_storage(location)
    assert repr(location) in str(caught.value)
