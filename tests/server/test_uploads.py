from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue import incoming, job_control
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import add_endpoint
from imageprocessor.settings import Settings
from tests.gifs import frame, gif, planted_gif
from tests.heif import KINDS, heif, ispe, tile
from tests.images import SENTINELS, encode, photo, png_bomb
from tests.server.conftest import UPLOAD, count_jobs
from tests.server.live import BOUNDARY, chunk, form_body, form_start, serve, upload_head, wire

FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
QUOTA_HEADERS = {
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "ratelimit",
    "ratelimit-policy",
}
ONE_MB = pytest.mark.parametrize("settings", [{"max_upload_size_mb": 1}], indirect=True)


@pytest.fixture(autouse=True)
def check_incoming_is_empty(service: Service) -> Iterator[None]:
    yield
    assert list(service.incoming.iterdir()) == []


@pytest.fixture
def port(settings: Settings, service: Service) -> Iterator[int]:
    with serve(settings) as found:
        yield found


def authorization(headers: dict[str, str]) -> str:
    return f"Authorization: {headers['Authorization']}"


def test_upload_matches_the_specification(
    upload: Callable[..., Any], service: Service, jpeg: bytes
) -> None:
    answer = upload(fields={"metadata": '{"context":"test_upload"}'})
    body = answer.json()
    assert answer.status_code == 202
    assert list(body) == ["job_id", "image_id", "status_url", "message"]
    assert body["status_url"] == f"/api/v1/images/jobs/{body['job_id']}"
    assert body["message"] == "Upload accepted. Processing initiated."
    job = job_control.read_job(service, body["job_id"], OPERATOR)
    assert (job.user_id, job.bucket, job.context) == ("ann", "photos", {"context": "test_upload"})
    assert job.source_sha256 == hashlib.sha256(jpeg).hexdigest()
    assert service.staging.get(job.staging_key or "") == jpeg
    assert job.request_id == answer.headers["x-request-id"]


def test_accepted_upload_has_all_quota_headers(upload: Callable[..., Any]) -> None:
    upload()
    headers = upload().headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("50", "48")
    assert time.strptime(headers["x-ratelimit-reset"], "%Y-%m-%dT%H:%M:%SZ")
    assert headers["ratelimit-policy"] == '"uploads";q=50;w=3600'
    assert headers["ratelimit"].startswith('"uploads";r=48;t=')


def test_unknown_webhook_is_a_422(upload: Callable[..., Any], service: Service) -> None:
    for name in ("nobody", "sh\0p", "https://shop.example.com/", "x" * 40_000):
        answer = upload(fields={"webhook": name})
        assert (answer.status_code, answer.json()["code"]) == (422, "webhook_unknown")
    assert count_jobs(service) == 0


def test_upload_may_name_a_webhook(upload: Callable[..., Any], service: Service) -> None:
    add_endpoint(service, "shop", "http://127.0.0.1/", allows_private=True)
    answer = upload(fields={"webhook": "shop"})
    job = job_control.read_job(service, answer.json()["job_id"], OPERATOR)
    assert job.webhook == "shop"


def test_file_name_and_type_from_the_client_are_ignored(
    upload: Callable[..., Any], service: Service
) -> None:
    answer = upload(
        files={"file": ("../../etc/\x00passwd.php", encode(photo(9, 9), "PNG"), "text/html")}
    )
    assert answer.status_code == 202
    assert (
        job_control.read_job(service, answer.json()["job_id"], OPERATOR).staging_key
        == f"photos/{answer.json()['job_id']}"
    )


@ONE_MB
def test_file_in_many_blocks_arrives_complete(
    upload: Callable[..., Any], service: Service, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 10_000)
    data = jpeg + bytes(range(256)) * 4000
    answer = upload(data)
    job = job_control.read_job(service, answer.json()["job_id"], OPERATOR)
    assert service.staging.get(job.staging_key or "") == data
    assert job.source_sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "file_empty"),
        (b"just text", 415, "type_unsupported"),
        (b"GIF89a<?php system($_GET['c']); ?>", 415, "type_unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "type_unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", 415, "type_unsupported"),
        (b"%PDF-1.7", 415, "type_unsupported"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", 415, "type_unsupported"),
        (b"AT&TFORM\x00\x00\x00\x00DJVM", 415, "type_unsupported"),
        (png_bomb(65_535, 65_535), 422, "image_too_large"),
        (png_bomb(65_536, 10), 422, "dimension_too_large"),
        (png_bomb(0, 10), 422, "image_invalid"),
        (encode(photo(9, 9), "JPEG")[:20], 422, "image_truncated"),
    ],
)
def test_unacceptable_image_is_refused(
    upload: Callable[..., Any], service: Service, data: bytes, status: int, code: str
) -> None:
    answer = upload(data)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["x-ratelimit-remaining"] == "50"
    assert count_jobs(service) == 0
    assert list(service.staging.list()) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"bucket": ""}, "bucket_invalid"),
        ({"bucket": "../../etc"}, "bucket_invalid"),
        ({"bucket": "a\x00b"}, "bucket_invalid"),
        ({"bucket": "x" * 4096}, "bucket_invalid"),
        ({"bucket": "x" * 40_000}, "bucket_invalid"),
        ({"bucket": "Photos"}, "bucket_invalid"),
        ({"bucket": "photos\n"}, "bucket_invalid"),
        ({"metadata": "{"}, "metadata_invalid"),
        ({"metadata": "[1]"}, "metadata_invalid"),
        ({"metadata": '{"x": NaN}'}, "metadata_invalid"),
        ({"metadata": json.dumps({"x": "y" * 17_000})}, "metadata_invalid"),
        ({"metadata": json.dumps({"x": "y" * 40_000})}, "metadata_invalid"),
        ({"metadata": '{"x":' * 1000 + "1" + "}" * 1000}, "metadata_invalid"),
        ({"metadata": r'{"x": "\ud800"}'}, "metadata_invalid"),
    ],
)
def test_invalid_fields_are_refused(
    upload: Callable[..., Any], service: Service, fields: dict[str, str], code: str
) -> None:
    answer = upload(fields=fields)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert count_jobs(service) == 0


@pytest.mark.parametrize("settings", [{"allowed_buckets": ["avatars"]}], indirect=True)
def test_a_bucket_that_is_not_allowed_is_refused(upload: Callable[..., Any]) -> None:
    assert upload().json()["code"] == "bucket_invalid"
    assert upload(fields={"bucket": "avatars"}).status_code == 202


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ([("file", ("a", b"x")), ("file", ("b", b"y"))], 400, "file_repeated"),
        ([("image", ("a", b"x"))], 422, "file_missing"),
        ([(f"file{index}", ("a", b"x")) for index in range(17)], 400, "form_invalid"),
    ],
)
def test_a_form_needs_exactly_one_file(
    upload: Callable[..., Any], files: list[Any], status: int, code: str
) -> None:
    answer = upload(files=files)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data"}, form_body(b"x")),
        ({"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}, form_body(b"x")),
        ({"Content-Type": "multipart/form-data; boundary=other"}, form_body(b"x")),
        (FORM, form_body(b"x")[:-8]),
        (FORM, b""),
    ],
)
def test_body_that_is_not_a_form_is_a_400(
    client: TestClient, token: Callable[..., dict[str, str]], headers: dict[str, str], body: bytes
) -> None:
    answer = client.post(UPLOAD, content=body, headers=token() | headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "form_invalid")
    assert set(answer.headers) >= QUOTA_HEADERS


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 1}], indirect=True)
def test_exhausted_quota_is_a_429_with_retry_after(
    upload: Callable[..., Any], service: Service
) -> None:
    upload()
    answer = upload()
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert upload(user="bob").status_code == 202
    assert count_jobs(service) == 2


def test_sixty_parallel_uploads_of_one_user_create_exactly_fifty_jobs(
    port: int, token: Callable[..., dict[str, str]], service: Service, jpeg: bytes
) -> None:
    body = form_body(jpeg)
    request = upload_head(authorization(token()), f"Content-Length: {len(body)}") + body

    def send(_: int) -> tuple[int, int]:
        with wire(port) as line:
            line.send(request)
            response, _body = line.answer()
            return response.status, int(response.headers["X-RateLimit-Remaining"])

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(send, range(60)))
    accepted = [remaining for status, remaining in answers if status == 202]
    assert sorted(accepted) == list(range(50))
    assert [answer for answer in answers if answer[0] != 202] == [(429, 0)] * 10
    assert count_jobs(service) == 50
    assert len(list(service.staging.list())) == 50


@pytest.mark.parametrize("repeated", ["key-1", '"key-1"'])
def test_repeated_idempotency_key_returns_the_same_job(
    upload: Callable[..., Any], service: Service, repeated: str
) -> None:
    first = upload(headers={"Idempotency-Key": "key-1"})
    second = upload(headers={"Idempotency-Key": repeated})
    assert (second.status_code, second.json()) == (202, first.json())
    assert second.headers["x-ratelimit-remaining"] == "49"
    assert count_jobs(service) == 1


def test_idempotency_keys_are_per_user(upload: Callable[..., Any]) -> None:
    key = {"Idempotency-Key": "key-1"}
    assert upload(headers=key).json() != upload(headers=key, user="bob").json()


@pytest.mark.parametrize(
    "changed", [{"fields": {"bucket": "others"}}, {"data": encode(photo(9, 9), "PNG")}]
)
def test_idempotency_key_with_another_payload_is_refused(
    upload: Callable[..., Any], service: Service, changed: dict[str, Any]
) -> None:
    upload(headers={"Idempotency-Key": "key-1"})
    answer = upload(headers={"Idempotency-Key": "key-1"}, **changed)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert count_jobs(service) == 1


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 1}], indirect=True)
def test_repeated_upload_is_accepted_after_the_quota_is_exhausted(
    upload: Callable[..., Any],
) -> None:
    first = upload(headers={"Idempotency-Key": "key-1"})
    assert upload(headers={"Idempotency-Key": "key-1"}).json() == first.json()


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "tab\tkey", "käse".encode("latin-1")])
def test_invalid_idempotency_key_is_refused(upload: Callable[..., Any], key: str | bytes) -> None:
    answer = upload(headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_invalid")
    assert set(answer.headers) >= QUOTA_HEADERS


def test_a_full_disk_is_a_507(
    upload: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = uuid.uuid4()
    monkeypatch.setattr("imageprocessor.queue.incoming.uuid.uuid4", lambda: name)
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 1)
    (service.incoming / name.hex).symlink_to("/dev/full")
    answer = upload()
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert set(answer.headers) >= QUOTA_HEADERS
    assert count_jobs(service) == 0


@pytest.mark.parametrize(
    ("block_bytes", "folder"), [(1, "incoming"), (incoming.BLOCK_BYTES, "staging")]
)
def test_unavailable_disk_is_a_503(
    upload: Callable[..., Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
    folder: str,
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", block_bytes)
    used = settings.data_dir / folder
    away = used.rename(settings.data_dir / "away")
    answer = upload()
    away.rename(used)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_image_of_one_block_does_not_use_incoming(
    upload: Callable[..., Any], service: Service, settings: Settings
) -> None:
    away = service.incoming.rename(settings.data_dir / "away")
    answer = upload()
    away.rename(service.incoming)
    assert answer.status_code == 202
    assert len(list(service.staging.list())) == 1


def test_image_of_several_blocks_passes_through_incoming(
    port: int,
    token: Callable[..., dict[str, str]],
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 1000)
    data = encode(photo(400, 300), "JPEG")
    with wire(port) as line:
        body = form_body(data)
        line.send(upload_head(authorization(token()), f"Content-Length: {len(body)}") + body[:5000])
        _wait_until(lambda: list(service.incoming.iterdir()) != [])
        line.send(body[5000:])
        assert line.answer()[0].status == 202
    (staged,) = service.staging.list()
    assert service.staging.get(staged.key) == data


def test_unavailable_database_is_a_503_and_nothing_stays_staged(
    upload: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refuse(_: object) -> Iterator[None]:
        raise DatabaseUnavailableError("The database is locked.")
        yield

    monkeypatch.setattr("imageprocessor.queue.database.connections.Database.write", refuse)
    answer = upload()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert list(service.staging.list()) == []


def test_a_bad_token_is_refused_before_the_body_is_sent(port: int) -> None:
    with wire(port) as line:
        line.send(
            upload_head(
                "Authorization: Bearer nonsense", "Content-Length: 9000000", "Expect: 100-continue"
            )
        )
        response, _ = line.answer()
    assert response.status == 401
    assert not QUOTA_HEADERS & {name.lower() for name in response.headers}


@pytest.mark.parametrize("encoding", ["gzip", "BR", "identity, deflate", "utf-8"])
def test_encoded_body_is_refused_before_it_is_sent(
    port: int, token: Callable[..., dict[str, str]], encoding: str
) -> None:
    with wire(port) as line:
        lines = (f"Content-Encoding: {encoding}", "Content-Length: 900", "Expect: 100-continue")
        line.send(upload_head(authorization(token()), *lines))
        response, body = line.answer()
    assert (response.status, json.loads(body)["code"]) == (415, "encoding_unsupported")
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", " Identity", ""])
def test_identity_encoding_is_accepted(upload: Callable[..., Any], encoding: str) -> None:
    assert upload(headers={"Content-Encoding": encoding}).status_code == 202


@ONE_MB
def test_a_declared_length_above_the_limit_is_refused_before_the_body_is_sent(
    port: int, token: Callable[..., dict[str, str]]
) -> None:
    with wire(port) as line:
        line.send(
            upload_head(authorization(token()), "Content-Length: 1200000", "Expect: 100-continue")
        )
        response, body = line.answer()
    assert (response.status, json.loads(body)["code"]) == (413, "file_too_large")
    assert {name.lower() for name in response.headers} >= QUOTA_HEADERS


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 1}], indirect=True)
def test_exhausted_quota_is_refused_before_the_body_is_sent(
    port: int, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    body = form_body(jpeg)
    with wire(port) as line:
        line.send(upload_head(authorization(token()), f"Content-Length: {len(body)}") + body)
        assert line.answer()[0].status == 202
        line.send(
            upload_head(
                authorization(token()), f"Content-Length: {len(body)}", "Expect: 100-continue"
            )
        )
        assert line.answer()[0].status == 429


@ONE_MB
def test_chunked_upload_above_the_limit_is_refused(
    port: int, token: Callable[..., dict[str, str]]
) -> None:
    with wire(port) as line:
        line.send(upload_head(authorization(token()), "Transfer-Encoding: chunked"))
        line.send(chunk(form_start()))
        for _ in range(17):
            line.send(chunk(b"x" * 65_536))
        response, body = line.answer()
    assert (response.status, json.loads(body)["code"]) == (413, "file_too_large")


def test_a_chunked_upload_is_accepted(
    port: int, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    body = form_body(jpeg)
    with wire(port) as line:
        line.send(upload_head(authorization(token()), "Transfer-Encoding: chunked"))
        line.send(chunk(body[:100]) + chunk(body[100:]) + b"0\r\n\r\n")
        assert line.answer()[0].status == 202


@pytest.mark.parametrize("length", ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6"])
def test_invalid_content_length_is_a_400(
    port: int, token: Callable[..., dict[str, str]], length: str
) -> None:
    with wire(port) as line:
        line.send(upload_head(authorization(token()), length))
        assert line.answer()[0].status == 400


def test_a_connection_stays_usable_after_a_refusal(
    port: int, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    body = form_body(jpeg * 200)
    with wire(port) as line:
        line.send(
            upload_head("Authorization: Bearer nonsense", f"Content-Length: {len(body)}") + body
        )
        assert line.answer()[0].status == 401
        body = form_body(jpeg)
        line.send(upload_head(authorization(token()), f"Content-Length: {len(body)}") + body)
        assert line.answer()[0].status == 202


@ONE_MB
def test_disconnected_client_leaves_no_files_or_jobs(
    port: int,
    token: Callable[..., dict[str, str]],
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 10_000)
    with capture_logs() as logs:
        with wire(port) as line:
            line.send(
                upload_head(authorization(token()), "Content-Length: 1000000")
                + form_start()
                + b"x" * 500_000
            )
            _wait_until(lambda: list(service.incoming.iterdir()) != [])
        _wait_until(lambda: [line for line in logs if line["event"] == "request"] != [])
    assert {line["log_level"] for line in logs} == {"info"}
    assert count_jobs(service) == 0


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


GIF_AND_AVIF = pytest.mark.parametrize(
    "settings", [{"allowed_mime_types": ["image/gif", "image/avif"]}], indirect=True
)


@GIF_AND_AVIF
def test_formats_that_the_settings_name_are_processed(
    client: TestClient, service: Service, token: Callable[..., dict[str, str]]
) -> None:
    wanted = {"GIF": planted_gif(), **{kind: heif(kind, tile(kind)) for kind in KINDS[:1]}}
    for name, data in wanted.items():
        files = {"file": ("upload.jpg", data, "image/jpeg")}
        answer = client.post(UPLOAD, files=files, data={"bucket": "photos"}, headers=token())
        assert answer.status_code == 202, (name, answer.text)
        run_job(service, answer.json()["job_id"], "test")
        result = client.get(f"{answer.json()['status_url']}/result").json()
        assert result["status"] == "completed"
        for url in result["urls"].values():
            variant = client.get(url).content
            assert variant[8:12] == b"WEBP"
            assert [mark for mark in SENTINELS if mark in variant] == []


@GIF_AND_AVIF
def test_a_bomb_of_a_further_format_is_refused_by_its_header(
    client: TestClient, service: Service, token: Callable[..., dict[str, str]]
) -> None:
    bombs = [gif((65_535, 65_535), frame((1, 1), 0))]
    bombs += [heif(kind, tile(kind).with_property(ispe(9999, 9999))) for kind in KINDS[:1]]
    for data in bombs:
        files = {"file": ("upload.jpg", data, "image/jpeg")}
        answer = client.post(UPLOAD, files=files, data={"bucket": "photos"}, headers=token())
        assert (answer.status_code, answer.json()["code"]) == (422, "image_too_large")
    assert count_jobs(service) == 0
