"""Uploading several images in one request, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue import incoming, job_control
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from tests.images import encode, photo, png_bomb
from tests.server.conftest import count_jobs
from tests.server.live import BOUNDARY, serve, wire

BATCH = "/api/v1/images/batch"
PNG = encode(photo(9, 9), "PNG")
TEXT = b"just text"
Send = Callable[..., Any]


@pytest.fixture(autouse=True)
def check_incoming_is_empty(service: Service) -> Iterator[None]:
    yield
    assert list(service.incoming.iterdir()) == []


@pytest.fixture
def send(client: TestClient, token: Callable[..., dict[str, str]]) -> Send:
    """Return a function that uploads a batch and returns the response."""

    def post(*files: bytes | tuple[str, Any], user: str = "ann", **options: Any) -> Any:
        parts = [
            ("files", (f"{number}.jpg", file)) if isinstance(file, bytes) else file
            for number, file in enumerate(files)
        ]
        fields = {"bucket": "photos"} | options.pop("fields", {})
        headers = token(user) | options.pop("headers", {})
        return client.post(BATCH, files=parts, data=fields, headers=headers, **options)

    return post


def staged(service: Service) -> int:
    return len(list(service.staging.list()))


def leaves_nothing(service: Service) -> bool:
    return (count_jobs(service), staged(service)) == (0, 0)


def test_each_file_is_accepted_or_refused_for_itself(
    send: Send, service: Service, jpeg: bytes
) -> None:
    answer = send(jpeg, TEXT, PNG, fields={"metadata": '{"album": 7}'})
    body = answer.json()
    assert (answer.status_code, body["accepted"], body["refused"]) == (207, 2, 1)
    assert body["status_url"] == f"/api/v1/batches/{body['batch_id']}"
    first, refused, last = body["items"]
    assert set(first) == {"index", "filename", "status", "job_id", "image_id", "status_url"}
    assert (first["index"], first["filename"], first["status"]) == (0, "0.jpg", 202)
    assert set(refused) == {"index", "filename", "status", "error"}
    assert refused["status"] == refused["error"]["status"] == 415
    assert refused["error"]["code"] == "type_unsupported"
    assert refused["error"]["type"] == "urn:imageprocessor:error:type_unsupported"
    assert answer.headers["x-ratelimit-remaining"] == "48"
    assert (count_jobs(service), staged(service)) == (2, 2)
    for item, data in ((first, jpeg), (last, PNG)):
        job = job_control.read_job(service, item["job_id"], OPERATOR)
        assert (job.user_id, job.context, job.bucket) == ("ann", {"album": 7}, "photos")
        assert service.staging.get(job.staging_key or "") == data
        assert job.request_id == answer.headers["x-request-id"]


def test_a_batch_whose_files_are_all_refused_is_a_207_and_completed(
    send: Send, client: TestClient, token: Callable[..., dict[str, str]], service: Service
) -> None:
    answer = send(TEXT, png_bomb(65_535, 65_535), b"")
    assert answer.status_code == 207
    codes = [item["error"]["code"] for item in answer.json()["items"]]
    assert codes == ["type_unsupported", "image_too_large", "file_empty"]
    assert leaves_nothing(service)
    state = client.get(answer.json()["status_url"], headers=token()).json()
    assert (state["status"], state["counts"]["refused"]) == ("completed", 3)
    assert [item["error_code"] for item in state["items"]] == codes


def test_an_atomic_batch_with_a_bad_file_is_a_422_and_leaves_nothing(
    send: Send, service: Service, jpeg: bytes
) -> None:
    answer = send(jpeg, TEXT, params={"atomic": "true"})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "batch_refused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert [(item["index"], item["error"]["code"]) for item in body["items"]] == [
        (1, "type_unsupported")
    ]
    assert answer.headers["x-ratelimit-remaining"] == "50"
    assert leaves_nothing(service)


def test_an_atomic_batch_of_good_files_is_accepted(send: Send, jpeg: bytes) -> None:
    answer = send(jpeg, PNG, params={"atomic": "true"})
    assert (answer.status_code, answer.json()["accepted"]) == (207, 2)


def test_parts_may_be_called_file_or_files_and_the_bucket_may_be_last(
    client: TestClient, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    names = ("file", "files", "files[]")
    parts: list[tuple[str, Any]] = [(name, (f"{name}.jpg", jpeg)) for name in names]
    answer = client.post(BATCH, files=[*parts, ("bucket", (None, b"photos"))], headers=token())
    assert [item["filename"] for item in answer.json()["items"]] == [
        "file.jpg",
        "files.jpg",
        "files[].jpg",
    ]


def test_metadata_of_an_item_is_added_to_that_of_the_batch(
    send: Send, service: Service, jpeg: bytes
) -> None:
    items = [{"metadata": {"caption": "A cat", "album": 8}}, {}]
    fields = {"metadata": '{"album": 7, "by": "ann"}', "items": json.dumps(items)}
    found = send(jpeg, jpeg, fields=fields).json()["items"]
    contexts = [job_control.read_job(service, item["job_id"], OPERATOR).context for item in found]
    assert contexts == [
        {"album": 8, "by": "ann", "caption": "A cat"},
        {"album": 7, "by": "ann"},
    ]


DEEP = '{"x":' * 900 + "1" + "}" * 900


INVALID_FIELDS = [
    ({"items": "[{}]"}, "items_invalid"),
    ({"items": "[{}, {}, {}]"}, "items_invalid"),
    ({"items": "{}"}, "items_invalid"),
    ({"items": "[{}, 1]"}, "items_invalid"),
    ({"items": '[{}, {"metadata": [1]}]'}, "items_invalid"),
    ({"items": '[{}, {"metadata": null}]'}, "items_invalid"),
    ({"items": '[{}, {"bucket": "others"}]'}, "items_invalid"),
    ({"items": '[{}, {"metadata": {"x": NaN}}]'}, "items_invalid"),
    ({"items": '[{}, {"metadata": {"x": 1e999}}]'}, "items_invalid"),
    ({"items": r'[{}, {"metadata": {"x": "\ud800"}}]'}, "items_invalid"),
    ({"items": f'[{{}}, {{"metadata": {DEEP}}}]'}, "items_invalid"),
    ({"items": "[" * 10_000}, "items_invalid"),
    ({"items": json.dumps([{}, {"metadata": {"x": "y" * 17_000}}])}, "items_invalid"),
    ({"metadata": "[1]"}, "metadata_invalid"),
    ({"bucket": "../etc"}, "bucket_invalid"),
]


def test_invalid_fields_refuse_the_whole_batch(send: Send, service: Service, jpeg: bytes) -> None:
    for fields, code in INVALID_FIELDS:
        answer = send(jpeg, jpeg, fields=fields)
        assert (answer.status_code, answer.json()["code"]) == (422, code), fields
    assert leaves_nothing(service)


def test_a_batch_without_a_file_is_a_422(send: Send) -> None:
    answer = send(("image", ("a.jpg", b"x")))
    assert (answer.status_code, answer.json()["code"]) == (422, "file_missing")


def test_twenty_files_are_accepted_and_twenty_one_are_a_413(send: Send, service: Service) -> None:
    answer = send(*[PNG] * 21)
    assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
    assert leaves_nothing(service)
    assert send(*[PNG] * 20).json()["accepted"] == 20


SMALL_BATCHES = pytest.mark.parametrize(
    "settings", [{"batch_max_mb": 2, "max_upload_size_mb": 1}], indirect=True
)


@SMALL_BATCHES
def test_a_batch_above_its_limit_is_a_413(send: Send, service: Service) -> None:
    answer = send(*[b"x" * 800_000] * 3)
    assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
    assert leaves_nothing(service)


@SMALL_BATCHES
def test_a_file_above_its_limit_is_refused_for_itself(
    send: Send, service: Service, jpeg: bytes
) -> None:
    good, refused = send(jpeg, jpeg + bytes(1_200_000)).json()["items"]
    assert good["status"] == 202
    assert (refused["status"], refused["error"]["code"]) == (413, "file_too_large")
    assert str(len(jpeg) + 1_200_000) in refused["error"]["detail"]
    assert staged(service) == 1


@SMALL_BATCHES
def test_files_on_disk_and_in_memory_arrive_complete(
    send: Send, service: Service, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 10_000)
    sent = [jpeg, jpeg + bytes(range(256)) * 2000, PNG + bytes(150_000), jpeg + b"x" * 9000]
    items = send(*sent).json()["items"]
    jobs = [job_control.read_job(service, item["job_id"], OPERATOR) for item in items]
    assert [service.staging.get(job.staging_key or "") for job in jobs] == sent


def test_a_batch_without_a_token_is_a_401(client: TestClient) -> None:
    answer = client.post(BATCH, files={"file": b"x"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_other_methods_are_a_405(client: TestClient) -> None:
    answer = client.delete(BATCH)
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 3}], indirect=True)
def test_files_after_the_end_of_the_quota_are_429_items(
    send: Send, service: Service, jpeg: bytes
) -> None:
    answer = send(jpeg, TEXT, jpeg, jpeg, jpeg)
    assert [item["status"] for item in answer.json()["items"]] == [202, 415, 202, 202, 429]
    assert answer.json()["items"][4]["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert (count_jobs(service), staged(service)) == (3, 3)
    assert send(jpeg).status_code == 429


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 1}], indirect=True)
def test_an_atomic_batch_beyond_the_quota_is_refused_and_not_counted(
    send: Send, service: Service, jpeg: bytes
) -> None:
    answer = send(jpeg, jpeg, params={"atomic": "true"})
    assert [item["index"] for item in answer.json()["items"]] == [1]
    assert leaves_nothing(service)
    assert send(jpeg).headers["x-ratelimit-remaining"] == "0"


KEY = {"Idempotency-Key": "key-1"}


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 2}], indirect=True)
def test_a_repeated_key_replays_the_same_answer_with_its_refusals(
    send: Send, service: Service, jpeg: bytes
) -> None:
    first = send(jpeg, TEXT, jpeg, jpeg, headers=KEY)
    assert [item["status"] for item in first.json()["items"]] == [202, 415, 202, 429]
    delete_image(service, first.json()["items"][0]["image_id"], OPERATOR)
    second = send(jpeg, TEXT, jpeg, jpeg, headers=KEY)
    assert (second.status_code, second.json()) == (207, first.json())
    assert (count_jobs(service), staged(service)) == (1, 1)


OTHER_PAYLOADS: list[dict[str, Any]] = [
    {"fields": {"bucket": "others"}},
    {"fields": {"metadata": '{"x": 1}'}},
    {"fields": {"items": '[{"metadata": {"x": 1}}, {}]'}},
    {"params": {"atomic": "true"}},
]


def test_a_repeated_key_with_another_payload_is_refused(
    send: Send, service: Service, jpeg: bytes
) -> None:
    send(jpeg, PNG, headers=KEY)
    answers = [send(jpeg, PNG, headers=KEY, **changed) for changed in OTHER_PAYLOADS]
    answers.append(send(PNG, jpeg, headers=KEY))
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert (count_jobs(service), staged(service)) == (2, 2)


def test_keys_of_batches_and_of_single_uploads_are_independent(
    send: Send, upload: Callable[..., Any], jpeg: bytes
) -> None:
    assert upload(headers=KEY).status_code == 202
    assert send(jpeg, headers=KEY).json()["accepted"] == 1
    assert send(jpeg, headers=KEY, user="bob").json()["accepted"] == 1


HOSTILE_NAMES = [
    "../../etc/passwd",
    "a\x00b.php",
    'x"y\\z.jpg',
    "\u202egpj.exe",
    "<script>alert(1)</script>",
    "n" * 1000,
    "",
]


def test_file_names_are_only_echoed(
    client: TestClient, token: Callable[..., dict[str, str]], service: Service, jpeg: bytes
) -> None:
    parts = [b'Content-Disposition: form-data; name="bucket"\r\n\r\nphotos']
    for name in HOSTILE_NAMES:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        head = f'Content-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
        parts.append(head.encode() + jpeg)
    content = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    headers = token() | {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post(BATCH, content=content, headers=headers).json()
    assert answer["accepted"] == len(HOSTILE_NAMES)
    for name, item in zip(HOSTILE_NAMES, answer["items"], strict=True):
        assert name.endswith(item["filename"]) or item["filename"] == "n" * 255
        job = job_control.read_job(service, item["job_id"], OPERATOR)
        assert job.staging_key == f"photos/{job.job_id}"
    state = client.get(answer["status_url"], headers=token()).json()
    for item, sent in zip(state["items"], answer["items"], strict=True):
        assert item["filename"] == sent["filename"]


def test_a_body_cut_off_in_the_third_part_leaves_nothing(
    settings: Settings,
    service: Service,
    token: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming, "BLOCK_BYTES", 10_000)
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    body = b"".join([part + b"x" * 200_000 + b"\r\n"] * 2) + part + b"x" * 50_000
    head = (
        f"POST {BATCH} HTTP/1.1\r\nHost: test\r\nAuthorization: {token()['Authorization']}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 700000\r\n\r\n"
    )
    with serve(settings) as port, wire(port) as line:
        line.send(head.encode() + body)
        while len(list(service.incoming.iterdir())) < 3:
            pass
    assert list(service.incoming.iterdir()) == []
    assert leaves_nothing(service)


def test_a_batch_reports_its_files_until_all_have_ended(
    send: Send,
    client: TestClient,
    token: Callable[..., dict[str, str]],
    run: Callable[[str], None],
    service: Service,
    jpeg: bytes,
) -> None:
    accepted = send(jpeg, TEXT, jpeg, jpeg[:-300]).json()
    path = accepted["status_url"]
    job_ids = [item.get("job_id") for item in accepted["items"]]

    def read() -> Any:
        return client.get(path, headers=token()).json()

    assert read()["status"] == "processing"
    assert read()["counts"] == {
        "pending": 3,
        "processing": 0,
        "completed": 0,
        "failed": 0,
        "deleted": 0,
        "refused": 1,
    }
    run(job_ids[0])
    run(job_ids[3])
    assert (read()["status"], read()["completed_at"]) == ("processing", None)
    delete_image(service, accepted["items"][2]["image_id"], OPERATOR)
    state = read()
    assert state["status"] == "completed"
    assert state["completed_at"] >= state["created_at"]
    statuses = [item["status"] for item in state["items"]]
    assert statuses == ["completed", "refused", "deleted", "failed"]
    assert [item.get("job_id") for item in state["items"]] == job_ids
    assert state["items"][3]["error_code"] == "image_truncated"
    assert state["items"][3]["error"]


def test_a_batch_may_be_waited_for(
    send: Send, client: TestClient, token: Callable[..., dict[str, str]], service: Service
) -> None:
    accepted = send(PNG, TEXT, PNG).json()
    path, first, last = accepted["status_url"], accepted["items"][0], accepted["items"][2]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"{path}?wait=20", headers=token())
        for item in (first, last):
            time.sleep(0.2)
            assert not waiting.done()
            run_job(service, item["job_id"], "test")
        answer = waiting.result(10)
    assert (answer.json()["status"], answer.json()["counts"]["completed"]) == ("completed", 2)

    answer = client.get(path, headers={**token(), "Prefer": "wait=31"})
    assert answer.headers["preference-applied"] == "wait=30"
    for wait in ("31", "-1", "x"):
        refused = client.get(path, params={"wait": wait}, headers=token())
        assert (refused.status_code, refused.json()["code"]) == (422, "wait_invalid")


def test_a_wait_for_a_batch_ends_with_the_time(
    send: Send, client: TestClient, token: Callable[..., dict[str, str]]
) -> None:
    path = send(PNG).json()["status_url"]
    assert client.get(f"{path}?wait=1", headers=token()).json()["status"] == "processing"


def test_only_the_owner_and_admins_may_read_a_batch(
    send: Send, client: TestClient, token: Callable[..., dict[str, str]], jpeg: bytes
) -> None:
    path = send(jpeg).json()["status_url"]
    assert client.get(path).status_code == 401
    answer = client.get(path, headers=token("bob"))
    assert (answer.status_code, answer.json()["code"]) == (404, "batch_not_found")
    assert client.get(path, headers=token("root", admin=True)).status_code == 200


def test_an_unknown_batch_is_refused(
    client: TestClient, token: Callable[..., dict[str, str]]
) -> None:
    unknown = {"x": "id_invalid", "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13": "batch_not_found"}
    for batch_id, code in unknown.items():
        answer = client.get(f"/api/v1/batches/{batch_id}", headers=token())
        assert answer.json()["code"] == code
