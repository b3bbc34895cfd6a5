"""Tests that every storage backend must pass.

Derive a class named Test… from StorageContract and give it a ``store`` fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imageprocessor.errors import InvalidKeyError, ObjectNotFoundError, StorageUnavailableError
from imageprocessor.storage.protocol import MARKER_NAME, Storage
from imageprocessor.storage.side_by_side import open_store_pool

BUCKETS = ("avatars", "one", "one-half", "two")  # the first names of all keys in these tests
KEY = "avatars/processed/medium/1_medium.webp"
# "-" and "." sort before "/", digits and letters after it.
LISTED = ["one/1", "one/12", "one/b/3", "one/b/9/1", "one/b-1", "one/b.c/1", "one/b0", "two/1"]
LISTED += ["one-half/4", "one-half/b/5"]
BAD_KEYS = [
    "",
    "/etc/passwd",
    "../1",
    "a/../../1",
    "a//b",
    "a/",
    ".tmp/1",
    "a b",
    "a\\b",
    "a\0b",
    "é",
    "x" * 1025,
]


class StorageContract:
    writers = 4  # concurrent writers of one object

    @pytest.fixture
    def pool(self) -> Iterator[Executor]:
        with open_store_pool() as pool:
            yield pool

    @pytest.mark.parametrize(
        "data", [b"", b"bytes", bytes(range(256)) * 40_000], ids=["empty", "small", "10MB"]
    )
    def test_get_returns_what_was_put(self, store: Storage, data: bytes) -> None:
        store.put(KEY, data)
        assert store.get(KEY) == data

    def test_put_replaces_an_object(self, store: Storage) -> None:
        store.put(KEY, b"a longer first version")
        store.put(KEY, b"second")
        assert store.get(KEY) == b"second"

    def test_keys_do_not_share_objects(self, store: Storage) -> None:
        store.put("one/1", b"1")
        store.put("two/1", b"2")
        assert (store.get("one/1"), store.get("two/1")) == (b"1", b"2")

    def test_get_of_a_missing_key_names_it(self, store: Storage) -> None:
        with pytest.raises(ObjectNotFoundError, match=KEY):
            store.get(KEY)

    def test_a_prefix_of_a_key_is_not_an_object(self, store: Storage) -> None:
        store.put(KEY, b"bytes")
        assert not store.exists("avatars/processed")
        with pytest.raises(ObjectNotFoundError):
            store.get("avatars/processed")
        store.delete("avatars/processed")
        assert store.exists(KEY)

    def test_an_object_is_not_a_folder(self, store: Storage) -> None:
        store.put("avatars/1", b"bytes")
        assert not store.exists("avatars/1/2")
        with pytest.raises(ObjectNotFoundError):
            store.get("avatars/1/2")
        store.delete("avatars/1/2")
        assert list(store.list("avatars/1/2")) == []

    def test_exists_is_true_only_after_put(self, store: Storage) -> None:
        assert not store.exists(KEY)
        store.put(KEY, b"bytes")
        assert store.exists(KEY)

    def test_delete_removes_one_object_and_is_idempotent(self, store: Storage) -> None:
        store.put(KEY, b"bytes")
        store.put("avatars/other", b"bytes")
        store.delete(KEY)
        store.delete(KEY)
        assert not store.exists(KEY)
        assert store.exists("avatars/other")

    def test_delete_need_not_be_durable(self, store: Storage) -> None:
        store.put(KEY, b"bytes")
        store.delete(KEY, durable=False)
        store.delete(KEY, durable=False)
        assert not store.exists(KEY)

    def test_adopt_moves_a_file_in(self, store: Storage, tmp_path: Path) -> None:
        upload = tmp_path / "upload"
        upload.write_bytes(b"bytes")
        store.adopt(KEY, upload)
        assert store.get(KEY) == b"bytes"
        assert not upload.exists()

    def test_put_all_stores_bytes_and_files(
        self, store: Storage, tmp_path: Path, pool: Executor
    ) -> None:
        upload = tmp_path / "upload"
        upload.write_bytes(b"moved")
        copies = {f"one/{number}": b"%d" % number for number in range(20)}
        store.put_all({**copies, KEY: upload}, pool)
        assert {key: store.get(key) for key in copies} == copies
        assert store.get(KEY) == b"moved"
        assert not upload.exists()

    def test_put_all_stores_equal_bytes_independently(self, store: Storage, pool: Executor) -> None:
        data = b"equal"
        store.put("two/1", b"older")
        store.put_all({"one/1": data, "two/1": data, "one-half/1": data}, pool)
        store.put("one/1", b"newer")
        store.delete("two/1")
        assert store.get("one/1") == b"newer"
        assert store.get("one-half/1") == data
        assert not store.exists("two/1")

    def test_put_all_raises_the_error_of_one_object(
        self, store: Storage, tmp_path: Path, pool: Executor
    ) -> None:
        with pytest.raises(StorageUnavailableError):
            store.put_all({"one/1": b"1", "one/2": tmp_path / "absent"}, pool)
        with pytest.raises(InvalidKeyError):
            store.put_all({"one/1": b"1", "../1": b"2"}, pool)

    def test_adopt_replaces_an_object(self, store: Storage, tmp_path: Path) -> None:
        store.put(KEY, b"first")
        upload = tmp_path / "upload"
        upload.write_bytes(b"second")
        store.adopt(KEY, upload)
        assert store.get(KEY) == b"second"

    def test_adopt_of_a_missing_file_fails_and_keeps_the_object(
        self, store: Storage, tmp_path: Path
    ) -> None:
        store.put(KEY, b"first")
        with pytest.raises(StorageUnavailableError, match=KEY):
            store.adopt(KEY, tmp_path / "absent")
        assert store.get(KEY) == b"first"

    def test_list_of_an_empty_store_is_empty(self, store: Storage) -> None:
        assert list(store.list()) == []

    @pytest.mark.parametrize(
        ("prefix", "keys"),
        [
            ("", ["one-half/4", "one/1", "one/12", "one/b/3", "two/1"]),
            ("one", ["one-half/4", "one/1", "one/12", "one/b/3"]),
            ("one/", ["one/1", "one/12", "one/b/3"]),
            ("one/1", ["one/1", "one/12"]),
            ("one/b/", ["one/b/3"]),
            ("absent/", []),
            ("../", []),
            ("/", []),
        ],
    )
    def test_list_yields_the_keys_that_start_with_the_prefix_in_order(
        self, store: Storage, prefix: str, keys: list[str]
    ) -> None:
        for key in ["one/1", "one/12", "one/b/3", "one-half/4", "two/1"]:
            store.put(key, b"bytes")
        assert [found.key for found in store.list(prefix)] == keys

    def test_list_resumes_after_any_key(self, store: Storage) -> None:
        for key in LISTED:
            store.put(key, b"bytes")
        places = [("", key) for key in [*LISTED, "one", "one/b", "one/b/0", "two", "zero"]]
        places += [("one/b", key) for key in ["one-half/4", "one/b", "one/b0", "two/1"]]
        for prefix, place in places:
            later = [key for key in sorted(LISTED) if key.startswith(prefix) and key > place]
            assert [found.key for found in store.list(prefix, place)] == later, place

    def test_list_returns_size_and_time(self, store: Storage) -> None:
        store.put(KEY, b"bytes")
        (found,) = store.list()
        assert found.size_bytes == len(b"bytes")
        assert found.modified_at.tzinfo is UTC
        assert abs(datetime.now(UTC) - found.modified_at) < timedelta(minutes=1)

    def test_objects_may_be_deleted_while_they_are_listed(self, store: Storage) -> None:
        keys = {f"avatars/{number}" for number in range(50)}
        for key in keys:
            store.put(key, b"bytes")
        seen = set()
        for found in store.list():
            seen.add(found.key)
            store.delete(found.key)
        assert seen == keys
        assert list(store.list()) == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_bad_key_is_refused_by_every_method(
        self, store: Storage, tmp_path: Path, key: str
    ) -> None:
        upload = tmp_path / "upload"
        upload.write_bytes(b"bytes")
        for use in (
            lambda: store.put(key, b"bytes"),
            lambda: store.adopt(key, upload),
            lambda: store.get(key),
            lambda: store.delete(key),
            lambda: store.delete(key, durable=False),
            lambda: store.exists(key),
            lambda: store.url(key),
        ):
            with pytest.raises(InvalidKeyError):
                use()
        assert upload.exists()

    def test_a_marker_is_written_and_read_but_is_no_object(self, store: Storage) -> None:
        store.put(KEY, b"bytes")
        assert {marker.owner for marker in store.read_markers()} == {None}
        for owner in ("first", "second"):
            for marker in store.read_markers():
                store.write_marker(marker.prefix, owner)
            assert {marker.owner for marker in store.read_markers()} == {owner}
        assert [found.key for found in store.list()] == [KEY]
        with pytest.raises(InvalidKeyError):
            store.get(MARKER_NAME)

    def test_each_object_has_its_own_url(self, store: Storage) -> None:
        assert store.url("one/1") != store.url("one/2")
        assert urlsplit(store.url("one/1")).path.endswith("one/1")

    def test_a_reader_never_sees_half_an_object(self, store: Storage) -> None:
        versions = [bytes([number]) * 300_000 for number in range(4)]
        store.put(KEY, versions[0])
        with ThreadPoolExecutor(self.writers) as pool:
            writes = [pool.submit(store.put, KEY, version) for version in versions * 5]
            while not all(write.done() for write in writes):
                assert store.get(KEY) in versions
            assert [write.result() for write in writes] == [None] * len(writes)
