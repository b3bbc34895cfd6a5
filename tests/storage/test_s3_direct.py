"""Requests that send a file straight to S3, to a server that checks signatures and conditions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from imageprocessor.errors import ObjectNotFoundError, StorageUnavailableError
from imageprocessor.storage.s3 import S3Access, S3Storage, SignedUpload
from tests.servers.strict_s3 import KEY_ID, SECRET_KEY, StrictS3, open_client, send_direct
from tests.storage.buckets import create_bucket

KEYS: dict[str, Any] = {
    "access_key_id": KEY_ID,
    "secret_access_key": SECRET_KEY,
    "region": "eu-west-1",
}
KEY = "photos/1"
DATA = b"0123456789"


@pytest.fixture(scope="module")
def store(strict_s3: StrictS3, s3: str) -> S3Storage:
    """Staging in a bucket of its own; opening a storage takes a few tenths of a second."""
    access = S3Access(strict_s3.url, **KEYS)
    return S3Storage(access, bucket=create_bucket(s3), prefix="_staging/")


@pytest.fixture(autouse=True)
def _empty(store: S3Storage) -> Iterator[None]:
    yield
    store.delete(KEY)


def send(signed: SignedUpload, data: bytes = DATA) -> tuple[int, str]:
    return send_direct(signed.method, signed.url, signed.values, data)


def change(signed: SignedUpload, **values: str) -> SignedUpload:
    named = {name.replace("_", "-"): value for name, value in values.items()}
    return replace(signed, values={**signed.values, **named})


def loosen(signed: SignedUpload) -> SignedUpload:
    """Return the form with a policy that permits more, but the same signature."""
    policy = json.loads(base64.b64decode(signed.values["policy"]))
    policy["conditions"][1] = ["content-length-range", 0, 1000]
    return change(signed, policy=base64.b64encode(json.dumps(policy).encode()).decode())


def test_a_form_stores_the_file_without_its_senders_type(store: S3Storage) -> None:
    signed = store.sign_post(KEY, len(DATA), 60)
    assert send(signed) == (204, "")
    assert store.get(KEY) == DATA
    head = store.client.head_object(Bucket=store.bucket, Key=f"_staging/{KEY}")
    assert head["ContentType"] == "application/octet-stream"


def test_a_form_refuses_files_of_another_size(store: S3Storage) -> None:
    signed = store.sign_post(KEY, len(DATA), 60)
    assert send(signed, DATA + b"1") == (400, "EntityTooLarge")
    assert send(signed, b"") == (400, "EntityTooSmall")
    assert not store.exists(KEY)


def test_a_form_permits_nothing_else(store: S3Storage) -> None:
    signed = store.sign_post(KEY, len(DATA), 60)
    refused = {
        "another key": change(signed, key="photos/processed/medium/1_medium.webp"),
        "a longer key": change(signed, key=f"_staging/{KEY}2"),
        "a type": change(signed, Content_Type="text/html"),
        "an access list": change(signed, acl="public-read"),
        "metadata": change(signed, x_amz_meta_a="b"),
        "another bucket": replace(signed, url=signed.url.replace(store.bucket or "", "others")),
    }
    answers = {name: send(form) for name, form in refused.items()}
    assert answers == dict.fromkeys(refused, (403, "AccessDenied"))
    assert send(loosen(signed)) == (403, "SignatureDoesNotMatch")
    assert send(change(signed, x_amz_credential=f"A{signed.values['x-amz-credential']}")) == (
        403,
        "InvalidAccessKeyId",
    )
    assert send(store.sign_post(KEY, len(DATA), -1)) == (403, "AccessDenied")
    assert not store.exists(KEY)


def test_a_put_stores_a_file_of_its_size_only(store: S3Storage) -> None:
    signed = store.sign_put(KEY, len(DATA), 60)
    assert send(signed, DATA + b"1") == (403, "SignatureDoesNotMatch")
    assert send(signed, DATA[1:]) == (403, "SignatureDoesNotMatch")
    assert not store.exists(KEY)
    assert send(signed) == (200, "")
    assert store.get(KEY) == DATA


def test_a_put_permits_nothing_else(store: S3Storage) -> None:
    signed = store.sign_put(KEY, len(DATA), 60)
    assert send(change(signed, Content_Type="text/html")) == (403, "SignatureDoesNotMatch")
    other = replace(signed, url=signed.url.replace(KEY, "photos/2"))
    assert send(other) == (403, "SignatureDoesNotMatch")
    longer = replace(signed, url=signed.url.replace("Expires=60", "Expires=600"))
    assert send(longer) == (403, "SignatureDoesNotMatch")
    assert send(change(signed, x_amz_acl="public-read")) == (403, "AccessDenied")
    assert send(store.sign_put(KEY, len(DATA), -1)) == (403, "AccessDenied")
    assert open_client().get(signed.url).status_code == 403
    assert not store.exists(KEY)


def test_each_bucket_has_its_own_staging(store: S3Storage, s3: str) -> None:
    several = store.at_prefix(store.prefix)
    bucket = create_bucket(s3)
    several.bucket, several.buckets = None, (bucket,)
    for signed in (
        several.sign_post(f"{bucket}/1", 10, 60),
        several.sign_put(f"{bucket}/1", 10, 60),
    ):
        assert send(signed)[0] < 300
        found = store.client.list_objects_v2(Bucket=bucket)["Contents"]
        assert [each["Key"] for each in found] == ["_staging/1"]
        with several.open(f"{bucket}/1") as opened:
            several.copy(f"{bucket}/1", f"{bucket}/2", opened.etag)
        assert several.get(f"{bucket}/2") == DATA
        several.delete(f"{bucket}/1")
        several.delete(f"{bucket}/2")
    with pytest.raises(StorageUnavailableError, match="ALLOWED_BUCKETS"):
        several.sign_post("payroll/1", 10, 60)


def test_requests_are_signed_for_the_public_endpoint(store: S3Storage, strict_s3: StrictS3) -> None:
    public = strict_s3.url.replace("127.0.0.1", "localhost")
    access = S3Access(strict_s3.url, public_endpoint_url=public, **KEYS)
    other = S3Storage(access, bucket=store.bucket, prefix=store.prefix)
    for signed in (other.sign_post(KEY, 10, 60), other.sign_put(KEY, 10, 60)):
        assert signed.url.startswith(f"{public}/{store.bucket}")
        assert send(signed)[0] < 300
    inside = replace(signed, url=signed.url.replace(public, strict_s3.url))
    assert send(inside) == (403, "SignatureDoesNotMatch"), "the host is signed"


def test_aws_is_asked_for_encryption() -> None:
    store = S3Storage(S3Access(**KEYS), bucket="images", prefix="_staging/")
    name = "x-amz-server-side-encryption"
    form, put = store.sign_post(KEY, 10, 60), store.sign_put(KEY, 10, 60)
    assert form.url == "https://images.s3.eu-west-1.amazonaws.com/"
    assert put.url.startswith(f"https://images.s3.eu-west-1.amazonaws.com/_staging/{KEY}?")
    assert form.values[name] == put.values[name] == "AES256"
    policy = json.loads(base64.b64decode(form.values["policy"]))
    assert {name: "AES256"} in policy["conditions"]
    assert name in put.url


def test_temporary_credentials_are_part_of_the_request() -> None:
    store = S3Storage(S3Access(session_token="of an hour", **KEYS), bucket="images")
    assert store.sign_post(KEY, 10, 60).values["x-amz-security-token"] == "of an hour"
    assert "X-Amz-Security-Token=of%20an%20hour" in store.sign_put(KEY, 10, 60).url


def test_an_object_is_read_in_pieces(store: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageprocessor.storage.s3.READ_BYTES", 4)
    store.put(KEY, DATA)
    with store.open(KEY) as opened:
        assert opened.size_bytes == len(DATA)
        assert list(opened.pieces) == [b"0123", b"4567", b"89"]


def test_a_truncated_object_is_an_error(store: S3Storage, strict_s3: StrictS3) -> None:
    store.put(KEY, bytes(100_000))
    strict_s3.fail("cut", only="GET ")
    try:
        with pytest.raises(StorageUnavailableError), store.open(KEY) as opened:
            list(opened.pieces)
    finally:
        strict_s3.fail("none")


def test_only_the_bytes_that_were_read_are_copied(store: S3Storage) -> None:
    store.put(KEY, DATA)
    with store.open(KEY) as opened:
        pass
    store.copy(KEY, "photos/2", opened.etag)
    assert store.get("photos/2") == DATA
    store.put(KEY, b"replaced")
    with pytest.raises(ObjectNotFoundError, match="replaced"):
        store.copy(KEY, "photos/3", opened.etag)
    store.delete(KEY)
    with pytest.raises(ObjectNotFoundError):
        store.copy(KEY, "photos/3", opened.etag)
    with pytest.raises(ObjectNotFoundError), store.open(KEY):
        pass
    assert not store.exists("photos/3")
