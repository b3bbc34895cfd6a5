from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

from imageprocessor.errors import SettingsError
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.location import open_storage
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.s3 import S3Storage


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


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("s3://photos", "avatars/1"),
        ("s3://photos/", "avatars/1"),
        ("s3://photos/a/b/", "a/b/avatars/1"),
    ],
)
def test_s3_location_opens_the_bucket_with_boto3s_configuration(
    s3: str, location: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    store = open_storage(location)
    assert isinstance(store, S3Storage)
    store.client.create_bucket(Bucket="photos")
    try:
        store.put("avatars/1", b"bytes")
        assert store.url("avatars/1").startswith(f"{s3}/photos/{key}?")
        with urlopen(store.url("avatars/1")) as answer:
            assert answer.read() == b"bytes"
    finally:
        store.delete("avatars/1")
        store.client.delete_bucket(Bucket="photos")


@pytest.mark.parametrize(
    "location",
    [
        "",
        "images",
        "/var/lib/images",
        "local://images",
        "local:",
        "ftp://x",
        "s3://",
        "s3://x",
        "s3://Up",
        "s3://abc//a",
    ],
)
def test_invalid_location_error_lists_the_valid_forms(location: str) -> None:
    forms = "'local:///absolute/path', 's3://bucket', 's3://bucket/prefix' or 'memory://'"
    with pytest.raises(SettingsError, match=forms) as caught:
        open_storage(location)
    assert repr(location) in str(caught.value)
