from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest

from imageprocessor.errors import (
    MissingExtraError,
    ObjectNotFoundError,
    SettingsError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from imageprocessor.queue.service import s3_access
from imageprocessor.settings import Settings
from imageprocessor.storage.s3 import ATTEMPTS, S3Access, S3Storage
from tests.servers.faults import FaultyProxy, run_faulty_proxy
from tests.storage.contract import BUCKETS, KEY, StorageContract

PAUSES_SECONDS = 3  # boto3's longest pauses between three attempts
SECRET = "a-secret-that-nobody-may-see"
KEYS: dict[str, Any] = {
    "access_key_id": "AKIDTEST",
    "secret_access_key": SECRET,
    "region": "eu-west-1",
}


@pytest.fixture(autouse=True)
def _no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def opened(s3: str) -> S3Storage:
    """A storage whose connections all tests share: opening one takes a few tenths of a second."""
    return S3Storage(S3Access(s3, **KEYS), bucket="any")


def empty(client: Any, bucket: str) -> None:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=found["Key"])


@pytest.fixture
def make_bucket(opened: S3Storage) -> Iterator[Callable[[str], str]]:
    """Create S3 buckets that are deleted after the test."""
    made = []

    def make(name: str) -> str:
        opened.client.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        made.append(name)
        return name

    yield make
    for name in made:
        empty(opened.client, name)
        opened.client.delete_bucket(Bucket=name)


@pytest.fixture
def bucket(make_bucket: Callable[[str], str]) -> str:
    return make_bucket(f"images-{uuid.uuid4().hex}")


@pytest.fixture
def store(opened: S3Storage, bucket: str) -> S3Storage:
    return in_bucket(opened, bucket)


def in_bucket(
    opened: S3Storage, bucket: str | None, buckets: tuple[str, ...] = (), prefix: str = ""
) -> S3Storage:
    store = opened.at_prefix(prefix)
    store.bucket, store.buckets = bucket, buckets
    return store


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultyProxy]:
    port = urlsplit(s3).port
    assert port
    with run_faulty_proxy(port) as running:
        yield running


@pytest.fixture
def failing(proxy: FaultyProxy, bucket: str) -> S3Storage:
    """The same bucket, accessed through the proxy with a short timeout."""
    return S3Storage(S3Access(proxy.url, timeout_seconds=0.3, **KEYS), bucket=bucket)


class TestOneBucket(StorageContract):
    writers = 1  # the test server answers 500 to more

    @pytest.fixture(params=["", "some/where/", "_staging/"], ids=["no-prefix", "prefix", "staging"])
    def store(self, opened: S3Storage, bucket: str, request: pytest.FixtureRequest) -> S3Storage:
        return in_bucket(opened, bucket, prefix=request.param)


class TestOneBucketPerName(StorageContract):
    writers = 1  # the test server answers 500 to more

    @pytest.fixture
    def store(self, opened: S3Storage, make_bucket: Callable[[str], str]) -> S3Storage:
        for name in BUCKETS:
            make_bucket(name)
        return in_bucket(opened, None, BUCKETS)


def names_in(store: S3Storage, bucket: str) -> list[str]:
    return [
        found["Key"] for found in store.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    ]


def test_one_bucket_holds_the_whole_key_after_the_prefix(opened: S3Storage, bucket: str) -> None:
    store = in_bucket(opened, bucket, prefix="_staging/")
    store.put("avatars/1", b"bytes")
    assert names_in(store, bucket) == ["_staging/avatars/1"]


def test_first_name_of_the_key_selects_the_bucket(
    opened: S3Storage, make_bucket: Callable[[str], str]
) -> None:
    make_bucket("avatars")
    in_bucket(opened, None, ("avatars",), "_staging/").put("avatars/1", b"bytes")
    assert names_in(opened, "avatars") == ["_staging/1"]


@pytest.mark.parametrize("key", ["payroll/1", "payroll", "avatars"])
def test_only_allowed_buckets_are_accessed(proxy: FaultyProxy, key: str) -> None:
    store = S3Storage(S3Access(proxy.url, **KEYS), bucket=None, buckets=["avatars"])
    for use in (
        store.get,
        store.exists,
        store.delete,
        store.url,
        lambda key: store.put(key, b"bytes"),
    ):
        with pytest.raises(StorageUnavailableError, match="ALLOWED_BUCKETS"):
            use(key)
    assert list(store.list("payroll/")) == []
    assert proxy.heads == []


def test_list_reads_all_pages_and_skips_staged_uploads(opened: S3Storage, bucket: str) -> None:
    images, staging = in_bucket(opened, bucket), in_bucket(opened, bucket, prefix="_staging/")
    for number in range(20):
        staging.put(f"avatars/{number}", b"bytes")
    keys = {f"{name}/{number}" for name in ("2024", "avatars", "photos") for number in range(3)}
    for key in keys:
        images.put(key, b"bytes")
    images.client.put_object(Bucket=bucket, Key="not a key", Body=b"")
    requests = count()

    def small_pages(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = 2
        next(requests)

    images.client.meta.events.register("provide-client-params.s3.ListObjectsV2", small_pages)
    try:
        assert {found.key for found in images.list()} == keys
        assert next(requests) < 10
        assert len(list(staging.list())) == 20
    finally:
        images.client.meta.events.unregister("provide-client-params.s3.ListObjectsV2", small_pages)


@pytest.mark.parametrize(
    ("key", "kind"), [("avatars/1.webp", "image/webp"), ("avatars/1", "application/octet-stream")]
)
def test_url_serves_the_object_for_15_minutes(store: S3Storage, key: str, kind: str) -> None:
    store.put(key, b"bytes")
    with urlopen(store.url(key)) as answer:
        assert answer.read() == b"bytes"
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Content-Disposition"] == "inline"
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    query = parse_qs(urlsplit(store.url(key)).query)
    assert query["X-Amz-Expires"] == ["900"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("webp", "image/webp"),
        ("avif", "image/avif"),
        ("jpg", "image/jpeg"),
        ("png", "image/png"),
        ("bin", "application/octet-stream"),
    ],
)
def test_stored_images_have_their_type_and_are_immutable(
    store: S3Storage, tmp_path: Path, suffix: str, kind: str
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"bytes")
    key = f"photos/it.{suffix}"
    store.adopt(key, upload)
    head = store.client.head_object(Bucket=store.bucket, Key=key)
    assert (head["ContentType"], head["CacheControl"]) == (
        kind,
        "private, max-age=31536000, immutable",
    )


def test_urls_use_the_public_endpoint_and_uploads_the_other(
    s3: str, bucket: str, proxy: FaultyProxy
) -> None:
    store = S3Storage(S3Access(s3, public_endpoint_url=proxy.url, **KEYS), bucket=bucket)
    store.put(KEY, b"bytes")
    assert proxy.heads == []
    assert store.url(KEY).startswith(f"{proxy.url}/{bucket}/{KEY}?")
    with urlopen(store.url(KEY)) as answer:
        assert answer.read() == b"bytes"
    assert len(proxy.heads) == 1


def test_url_needs_no_network_and_a_few_milliseconds() -> None:
    store = S3Storage(S3Access("http://127.0.0.1:1", **KEYS), bucket="images")
    store.url(KEY)
    started = time.perf_counter()
    for _ in range(100):
        store.url(KEY)
    assert (time.perf_counter() - started) / 100 < 0.010


def test_other_servers_get_path_style_plain_bodies_and_our_credentials(
    failing: S3Storage, proxy: FaultyProxy, bucket: str
) -> None:
    failing.put(KEY, b"bytes")
    line, *headers = proxy.heads[-1].splitlines()
    sent = {
        name.lower(): value for name, _, value in (header.partition(": ") for header in headers)
    }
    assert line == f"PUT /{bucket}/{KEY} HTTP/1.1"
    assert sent["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDTEST/")
    assert re.fullmatch("[0-9a-f]{64}", sent["x-amz-content-sha256"]), (
        "the signature covers the body"
    )
    assert "content-encoding" not in sent
    assert not [
        name for name in sent if "checksum" in name or "trailer" in name or "encryption" in name
    ]


def request_to_aws(
    access: S3Access, use: Callable[[S3Storage], object], bucket: str = "images"
) -> Any:
    """Return the request that *use* would send to AWS."""
    store = S3Storage(access, bucket=bucket)
    sent = []

    def stop(request: Any, **_: object) -> None:
        sent.append(request)
        raise InterruptedError

    store.client.meta.events.register("before-send.s3", stop)
    with pytest.raises(InterruptedError):
        use(store)
    return sent[0]


def test_aws_request_asks_for_encryption_in_the_buckets_region() -> None:
    request = request_to_aws(S3Access(**KEYS), lambda store: store.put(KEY, b"bytes"))
    assert request.url == f"https://images.s3.eu-west-1.amazonaws.com/{KEY}"
    assert request.headers["x-amz-server-side-encryption"] == b"AES256"
    assert b"/eu-west-1/s3/aws4_request" in request.headers["Authorization"]


def test_temporary_credentials_send_their_token() -> None:
    request = request_to_aws(
        S3Access(session_token="of an hour", **KEYS), lambda store: store.get(KEY)
    )
    assert request.headers["X-Amz-Security-Token"] == b"of an hour"


def test_credentials_of_a_profile_are_used(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        f"[images]\naws_access_key_id=AKIDFILE\naws_secret_access_key={SECRET}\n"
    )
    request = request_to_aws(
        S3Access(profile="images", region="eu-west-1"), lambda store: store.get(KEY)
    )
    assert b"Credential=AKIDFILE/" in request.headers["Authorization"]


def test_aws_urls_name_the_region_and_put_dotted_buckets_in_the_path() -> None:
    assert (
        S3Storage(S3Access(**KEYS), bucket="images")
        .url(KEY)
        .startswith(f"https://images.s3.eu-west-1.amazonaws.com/{KEY}?")
    )
    assert (
        S3Storage(S3Access(**KEYS), bucket="img.example.com")
        .url(KEY)
        .startswith(f"https://s3.eu-west-1.amazonaws.com/img.example.com/{KEY}?")
    )


def test_aws_without_region_is_refused() -> None:
    with pytest.raises(SettingsError, match="AWS_REGION"):
        S3Storage(S3Access(access_key_id="AKIDTEST", secret_access_key=SECRET), bucket="images")


def test_missing_profile_is_reported() -> None:
    with pytest.raises(StorageUnavailableError, match="AWS_PROFILE"):
        S3Storage(S3Access(profile="absent", region="eu-west-1"), bucket="images")


def test_missing_credentials_error_names_what_to_set(s3: str) -> None:
    with pytest.raises(StorageUnavailableError, match="AWS_ACCESS_KEY_ID"):
        S3Storage(S3Access(s3), bucket="images").get(KEY)


def test_missing_boto3_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError, match=r"STORAGE_BACKEND=s3.*\[s3\]"):
        S3Storage(S3Access(**KEYS), bucket="images")


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(S3Access(session_token=SECRET, **KEYS))


USES: dict[str, Callable[[S3Storage], object]] = {
    "get": lambda store: store.get(KEY),
    "put": lambda store: store.put(KEY, b"other"),
    "exists": lambda store: store.exists(KEY),
    "delete": lambda store: store.delete(KEY),
    "list": lambda store: list(store.list()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("fault", [500, 503, 403, "reset", "hang"])
def test_every_fault_is_reported_with_bucket_and_without_secrets(
    failing: S3Storage,
    proxy: FaultyProxy,
    bucket: str,
    fault: Any,
    use: Callable[[S3Storage], object],
) -> None:
    proxy.fail(fault)
    started = time.monotonic()
    with pytest.raises(StorageUnavailableError, match=bucket) as caught:
        use(failing)
    assert time.monotonic() - started < ATTEMPTS * 0.3 + PAUSES_SECONDS
    assert SECRET not in str(caught.value)
    assert len(proxy.heads) == (1 if fault == 403 else 3)


def test_hanging_s3_is_given_up_in_the_time_that_the_page_says() -> None:
    page = Path("docs/server.md").read_text(encoding="utf-8")
    (seconds,) = re.findall(r"an answer of S3 \|.* at most (\d+) s", page)
    access = s3_access(Settings())
    assert ATTEMPTS * access.timeout_seconds + PAUSES_SECONDS <= int(seconds)


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_truncated_object_is_an_error(failing: S3Storage, proxy: FaultyProxy, fault: Any) -> None:
    failing.put(KEY, bytes(100_000))
    proxy.fail(fault)
    with pytest.raises(StorageUnavailableError, match="does not answer"):
        failing.get(KEY)


def test_unreachable_endpoint_is_reported(bucket: str) -> None:
    with pytest.raises(StorageUnavailableError, match=r"EndpointConnectionError.*S3_ENDPOINT_URL"):
        S3Storage(S3Access("http://127.0.0.1:1", **KEYS), bucket=bucket).get(KEY)


@pytest.mark.parametrize(
    ("status", "code", "kind", "remedy"),
    [
        (507, "InsufficientStorage", StorageFullError, "raise the quota"),
        (507, "XMinioStorageFull", StorageFullError, "raise the quota"),
        (403, "QuotaExceeded", StorageFullError, "raise the quota"),
        (403, "SignatureDoesNotMatch", StorageUnavailableError, "Check the credentials"),
        (400, "AuthorizationHeaderMalformed", StorageUnavailableError, "AWS_REGION"),
        (404, "NoSuchKey", ObjectNotFoundError, "no such object"),
        (404, "NoSuchBucket", StorageUnavailableError, "Create it"),
    ],
)
def test_refusals_name_the_remedy(
    failing: S3Storage,
    proxy: FaultyProxy,
    status: int,
    code: str,
    kind: type[StorageError],
    remedy: str,
) -> None:
    proxy.fail(status, code=code)
    with pytest.raises(StorageError, match=remedy) as caught:
        failing.get(KEY)
    assert type(caught.value) is kind


def test_missing_bucket_is_not_a_missing_object(opened: S3Storage) -> None:
    store = in_bucket(opened, f"absent-{uuid.uuid4().hex}")
    for use in (
        store.get,
        store.exists,
        store.delete,
        lambda key: store.put(key, b"bytes"),
        lambda _: [*store.list()],
    ):
        with pytest.raises(StorageUnavailableError, match=r"absent-.*no such bucket"):
            use(KEY)


def test_adopt_keeps_the_file_if_storing_fails(
    failing: S3Storage, proxy: FaultyProxy, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"bytes")
    proxy.fail(500)
    with pytest.raises(StorageUnavailableError):
        failing.adopt(KEY, upload)
    assert upload.read_bytes() == b"bytes"
    proxy.fail("none")
    failing.adopt(KEY, upload)
    assert failing.get(KEY) == b"bytes"


def test_transient_fault_is_retried(failing: S3Storage, proxy: FaultyProxy, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"bytes")
    proxy.fail(503)
    failing.client.meta.events.register("needs-retry.s3", lambda **_: proxy.fail("none"))
    failing.adopt(KEY, upload)
    assert failing.get(KEY) == b"bytes"
