"""The example in CONTRIBUTING.md: how to add a storage backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import imageprocessor as ip
from imageprocessor.errors import SettingsError, StorageFullError, StorageUnavailableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from imageprocessor.storage import location
from imageprocessor.storage.keys import variant_key
from tests.images import encode, photo
from tests.storage.contract import StorageContract
from tests.storage.single_file import SingleFileStorage, open_single_file
from tests.uploads import submit_to

IMAGE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
PHOTO = encode(photo(80, 60), "JPEG")


class TestSingleFileStorage(StorageContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> SingleFileStorage:
        return SingleFileStorage(tmp_path / "objects.db")


@pytest.fixture(autouse=True)
def _scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(location.OPENERS, "sqlite", open_single_file)


def test_stored_variants_are_there_after_reopening(
    tmp_path: Path,
) -> None:
    place = f"sqlite://{tmp_path}/objects.db"
    store = ip.open_storage(place)
    image = ip.process(PHOTO)
    for name, variant in image.variants.items():
        store.put(variant_key("avatars", name, IMAGE_ID), variant.data)
    again = ip.open_storage(place)
    for name, variant in image.variants.items():
        assert again.get(variant_key("avatars", name, IMAGE_ID)) == variant.data


def test_malformed_location_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'sqlite://objects\.db'"):
        ip.open_storage("sqlite://objects.db")


def test_job_stores_its_variants_in_the_file(tmp_path: Path) -> None:
    with open_service(Settings(data_dir=tmp_path / "data")) as local:
        service = replace(local, storage=SingleFileStorage(tmp_path / "objects.db"))
        job = submit_to(service, PHOTO)
        run_job(service, job.job_id, "worker")
        done = read_job(service, job.job_id, OPERATOR)
        stored = {found.key for found in service.storage.list()}
        assert stored == set((done.variant_keys or {}).values())


def test_full_file_and_non_database_raise_storage_errors(
    tmp_path: Path,
) -> None:
    store = SingleFileStorage(tmp_path / "objects.db")
    with pytest.raises(StorageFullError, match="No space"):
        fill(store)
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(StorageUnavailableError, match="Check the file"):
        SingleFileStorage(tmp_path / "text")


def fill(store: SingleFileStorage) -> None:
    with store._connect("store") as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("INSERT INTO objects VALUES ('1', zeroblob(100000), 0)")
