from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.responses import FileResponse
from starlette.testclient import TestClient

from imageprocessor.queue.service import Service
from imageprocessor.server.routes import files
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from tests.server.live import get, serve

IMMUTABLE = "max-age=31536000, immutable"


@pytest.fixture
def paths(image: dict[str, str]) -> list[str]:
    """The two paths that serve the medium size."""
    image_id = image["image_id"]
    return [
        f"/storage/photos/processed/medium/{image_id}_medium.webp",
        f"/api/v1/images/{image_id}/direct?size=medium",
    ]


@pytest.fixture
def port(settings: Settings, service: Service) -> Iterator[int]:
    with serve(settings) as found:
        yield found


def test_files_are_the_webp_image(client: TestClient, paths: list[str]) -> None:
    for path in paths:
        with Image.open(BytesIO(client.get(path).content)) as opened:
            assert (opened.format, opened.size) == ("WEBP", (60, 45))


def test_direct_serves_medium_by_default(
    client: TestClient, image: dict[str, str], paths: list[str]
) -> None:
    assert (
        client.get(f"/api/v1/images/{image['image_id']}/direct").content
        == client.get(paths[0]).content
    )


def test_file_headers_state_its_type_and_allow_caching(
    client: TestClient, image: dict[str, str], paths: list[str]
) -> None:
    for path in paths:
        headers = client.get(path).headers
        assert headers["content-type"] == "image/webp"
        assert (
            headers["content-disposition"] == f'inline; filename="{image["image_id"]}_medium.webp"'
        )
        assert headers["cache-control"] == f"public, {IMMUTABLE}"
        assert headers["cross-origin-resource-policy"] == "cross-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize("settings", [{"public_reads": False}], indirect=True)
def test_private_file_forbids_shared_caching_and_embedding(
    client: TestClient, paths: list[str], token: Callable[..., dict[str, str]]
) -> None:
    for path in paths:
        headers = client.get(path, headers=token()).headers
        assert headers["cache-control"] == f"private, {IMMUTABLE}"
        assert headers["cross-origin-resource-policy"] == "same-site"


def test_large_and_small_files_get_the_same_headers(
    client: TestClient, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [client.get(path) for path in paths]
    monkeypatch.setattr(files, "SMALL_BYTES", 0)
    monkeypatch.setattr(FileResponse, "chunk_size", 100)
    for path, answer in zip(paths, small, strict=True):
        large = client.get(path)
        assert large.content == answer.content
        assert set(large.headers.items()) - set(answer.headers.items()) == {
            ("x-request-id", large.headers["x-request-id"])
        }


def test_current_copy_is_not_sent_again(client: TestClient, paths: list[str]) -> None:
    for path in paths:
        etag = client.get(path).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = client.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
            assert IMMUTABLE in answer.headers["cache-control"]
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("since", "status"),
    [
        ("Sun, 06 Nov 2044 08:49:37 GMT", 304),
        ("Sunday, 06-Nov-44 08:49:37 GMT", 304),
        ("Sun Nov  6 08:49:37 2044", 304),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ("yesterday", 200),
        ("", 200),
    ],
)
def test_copy_of_a_later_date_is_not_sent_again(
    client: TestClient, paths: list[str], since: str, status: int
) -> None:
    for path in paths:
        assert client.get(path, headers={"If-Modified-Since": since}).status_code == status
        assert client.head(path, headers={"If-Modified-Since": since}).status_code == status


def test_date_of_the_copy_counts_to_the_second_and_only_without_an_etag(
    client: TestClient, paths: list[str]
) -> None:
    for path in paths:
        date = client.get(path).headers["last-modified"]
        earlier = format_datetime(parsedate_to_datetime(date) - timedelta(seconds=1), usegmt=True)
        assert client.get(path, headers={"If-Modified-Since": date}).status_code == 304
        assert client.get(path, headers={"If-Modified-Since": earlier}).status_code == 200
        both = {"If-Modified-Since": date, "If-None-Match": '"other"'}
        assert client.get(path, headers=both).status_code == 200


@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=99999999-"}])
def test_head_returns_the_headers_of_get(
    port: int, paths: list[str], wanted: dict[str, str]
) -> None:
    for path in paths:
        whole, data = get(port, path)
        head, nothing = get(port, path, "HEAD", **wanted)
        assert (head.status, nothing) == (200, b"")
        same = ("Content-Length", "Content-Type", "ETag", "Cache-Control")
        assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]
        assert int(head.headers["Content-Length"]) == len(data)


def test_a_range_is_served(port: int, paths: list[str]) -> None:
    for path in paths:
        data = get(port, path)[1]
        for wanted, expected in (
            ("bytes=0-9", data[:10]),
            ("bytes=10-", data[10:]),
            ("bytes=-5", data[-5:]),
        ):
            answer, received = get(port, path, Range=wanted)
            assert (answer.status, received) == (206, expected)
        assert (
            get(port, path, Range="bytes=2-3")[0].headers["Content-Range"]
            == f"bytes 2-3/{len(data)}"
        )


def test_a_range_outside_the_file_is_a_416(client: TestClient, paths: list[str]) -> None:
    size = len(client.get(paths[0]).content)
    for wanted in (f"bytes={size}-", "bytes=99999999-", "bytes=-0"):
        answer = client.get(paths[0], headers={"Range": wanted})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-3",
        "bytes=a-b",
        "pages=1-2",
        "bytes=",
        "bytes=-",
        "-",
        "bytes=0-1,3-4",
        "bytes=" + "0-1," * 1900,
        f"bytes={'9' * 5000}-",
    ],
)
def test_malformed_or_multiple_ranges_are_ignored_at_once(
    client: TestClient, paths: list[str], wanted: str
) -> None:
    started = time.perf_counter()
    answer = client.get(paths[0], headers={"Range": wanted})
    assert time.perf_counter() - started < 0.5
    assert (answer.status_code, len(answer.content)) == (200, int(answer.headers["content-length"]))


def test_range_of_another_version_returns_the_whole_file(
    client: TestClient, paths: list[str]
) -> None:
    answer = client.get(paths[0], headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/storage/others/processed/medium/{id}_medium.webp",
        "/storage/photos/processed/thumbnail/{id}_medium.webp",
        "/storage/photos/processed/huge/{id}_huge.webp",
        "/storage/photos/processed/medium/{id}_medium.webp.bak",
        "/storage/photos/processed/medium/{ID}_medium.webp",
        "/storage/photos/processed/medium/3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13_medium.webp",
        "/storage/photos/processed/medium/%2e%2e%2f%2e%2e%2fprocessor.db",
        "/storage/photos/processed/../../../processor.db",
        "/storage/photos/processed/medium/%00",
        "/storage/photos",
        "/storage/",
    ],
)
def test_only_the_exact_path_of_a_variant_is_served(
    client: TestClient, image: dict[str, str], path: str
) -> None:
    answer = client.get(path.format(id=image["image_id"], ID=image["image_id"].upper()))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"


def test_waiting_upload_cannot_be_fetched(client: TestClient, upload: Callable[..., Any]) -> None:
    accepted = upload().json()
    for path in (f"medium/{accepted['image_id']}_medium.webp", f"staging/{accepted['job_id']}"):
        assert client.get(f"/storage/photos/processed/{path}").status_code == 404


FORMATS = {"image_sizes": {"medium": {"width": 60, "formats": ["avif", "jpeg"]}}}


@pytest.mark.parametrize("settings", [FORMATS], indirect=True)
@pytest.mark.parametrize(
    ("query", "suffix", "kind", "magic"),
    [
        ("", "avif", "image/avif", b"ftypavif"),
        ("&format=avif", "avif", "image/avif", b"ftypavif"),
        ("&format=jpeg", "jpg", "image/jpeg", b"JFIF"),
    ],
)
def test_each_format_of_a_size_is_served_with_its_type(
    client: TestClient, image: dict[str, str], query: str, suffix: str, kind: str, magic: bytes
) -> None:
    image_id = image["image_id"]
    path = f"/storage/photos/processed/medium/{image_id}_medium.{suffix}"
    stored = client.get(path)
    direct = client.get(f"/api/v1/images/{image_id}/direct?size=medium{query}")
    assert magic in stored.content[:20]
    assert direct.content == stored.content
    for answer in (stored, direct):
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        disposition = f'inline; filename="{image_id}_medium.{suffix}"'
        assert answer.headers["content-disposition"] == disposition
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize("settings", [FORMATS], indirect=True)
def test_a_format_that_a_size_does_not_have_is_refused(
    client: TestClient, image: dict[str, str], service: Service
) -> None:
    answer = client.get(f"/api/v1/images/{image['image_id']}/direct?format=webp")
    assert (answer.status_code, answer.json()["code"]) == (422, "size_unknown")
    assert "It has avif, jpeg." in answer.json()["detail"]
    path = f"/storage/photos/processed/medium/{image['image_id']}_medium.webp"
    assert client.get(path).status_code == 404
    (jpeg,) = (found for found in service.storage.list() if found.key.endswith("jpg"))
    answer = client.head(f"/storage/{jpeg.key}")
    assert int(answer.headers["content-length"]) == jpeg.size_bytes


@pytest.mark.parametrize("settings", [FORMATS], indirect=True)
def test_head_of_a_remote_alternate_states_its_own_type_and_size(
    port: int, image: dict[str, str], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStorage, "url", lambda _, key: f"https://s3.test/{key}")
    (jpeg,) = (found for found in service.storage.list() if found.key.endswith("jpg"))
    path = f"/api/v1/images/{image['image_id']}/direct?format=jpeg"
    answer, _ = get(port, path, "HEAD")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert int(answer.headers["Content-Length"]) == jpeg.size_bytes


def test_file_missing_on_disk_is_a_404(
    client: TestClient, paths: list[str], service: Service
) -> None:
    for stored in list(service.storage.list()):
        service.storage.delete(stored.key)
    for path in paths:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "object_not_found")


def test_symbolic_link_is_not_followed(
    client: TestClient, paths: list[str], settings: Settings, tmp_path: Path
) -> None:
    file = settings.storage_path / paths[0].removeprefix("/storage/")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert client.get(paths[0]).status_code == 404


def test_remote_file_is_an_uncached_redirect(
    client: TestClient, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LocalStorage, "url", lambda _, key: f"https://s3.test/{key}?signature=a%2Fb"
    )
    for path in paths:
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["location"].startswith("https://s3.test/photos/processed/medium/")
        assert answer.headers["location"].endswith("?signature=a%2Fb")


def test_head_of_a_remote_file_returns_its_headers_without_a_redirect(
    port: int, paths: list[str], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [stored.size_bytes for stored in service.storage.list("photos/processed/medium/")]
    monkeypatch.setattr(LocalStorage, "url", lambda _, key: f"https://s3.test/{key}?signature=a")
    for path in paths:
        answer, nothing = get(port, path, "HEAD")
        assert (answer.status, nothing, answer.headers["Content-Type"]) == (200, b"", "image/webp")
        assert ([int(answer.headers["Content-Length"])], answer.headers["Cache-Control"]) == (
            sizes,
            "no-store",
        )
        assert answer.headers.get_all("Content-Length") == [str(sizes[0])]
