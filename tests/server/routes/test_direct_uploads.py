"""Uploads that are sent straight to S3, to a server that checks signatures and policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from imageprocessor.errors import RequestError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.database import clock
from imageprocessor.queue.direct_uploads import DirectUpload, sign_upload
from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.maintenance.sweep import UPLOAD_STEP, sweep
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.storage.s3 import S3Storage
from imageprocessor.tokens import Ticket, load_keys, sign_ticket, sign_token
from tests.images import encode, photo
from tests.server.browsing import run_jobs
from tests.server.live import serve, wait_until
from tests.server.shop import drop, serve_shop
from tests.servers.strict_s3 import KEY_ID, SECRET_KEY, StrictS3, send_direct
from tests.storage.buckets import create_bucket

TICKETS = "/api/v1/uploads"
JPEG = encode(photo(80, 60), "JPEG")
OTHER = encode(photo(60, 80), "JPEG")
LARGE = encode(photo(1000, 800), "PNG", compress_level=0)  # 2.4 MB: received through a file
SITE = {"Origin": "https://shop.example"}

Issue = Callable[..., dict[str, Any]]


# One application for all tests: opening S3 takes a few tenths of a second.
@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory,
    add_sqlite: Callable[[Path], None],
    s3: str,
    strict_s3: StrictS3,
) -> Settings:
    data_dir = tmp_path_factory.mktemp("direct") / "data"
    add_sqlite(data_dir)
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "image_sizes": {"thumbnail": 20, "medium": 60},
            "storage_backend": "s3",
            "s3_bucket": create_bucket(s3),
            "s3_endpoint_url": strict_s3.url,
            "aws_region": "eu-west-1",
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET_KEY,
            "rate_limit_max_uploads": 3,
        }
    )


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Service]:
    with open_service(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(settings: Settings, service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _s3_is_as_before(strict_s3: StrictS3) -> Iterator[None]:
    yield
    strict_s3.fail("none")
    strict_s3.has_post = strict_s3.checks_size = True


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of this test only, who has a quota of their own."""
    return str(request.node.name)[:200]


@pytest.fixture
def issue(client: TestClient, settings: Settings, user: str) -> Issue:
    """Return a function that gets a ticket for a direct upload."""
    headers = {"Authorization": f"Bearer {sign_token(settings, user)}"}

    def issue(**wanted: Any) -> dict[str, Any]:
        body = {"bucket": "photos", "direct": True, **wanted}
        answer = client.post(TICKETS, json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        issued: dict[str, Any] = answer.json()
        return issued

    return issue


def send(direct: dict[str, Any], data: bytes = JPEG) -> int:
    """Send *data* to S3 as a browser would, and return the status of its answer."""
    values = direct["fields"] if direct["method"] == "POST" else direct["headers"]
    return send_direct(direct["method"], direct["url"], values, data)[0]


def find_code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def find_source(service: Service, job_id: str) -> bytes:
    with service.database.read() as connection:
        job = job_store.find_job(connection, job_id)
    assert job is not None
    return service.staging.get(job.staging_key or "")


def sign_address(settings: Settings, age: timedelta, image_id: str) -> str:
    """Return the address to complete an upload whose ticket expired *age* ago."""
    ticket = Ticket(image_id, "ann", "photos", 10**6)
    signed = sign_ticket(load_keys(settings), settings, ticket, clock.utc_now() - age)
    return f"{TICKETS}/{image_id}/complete?ticket={signed}"


# First: it runs all jobs, and the other tests leave theirs.
def test_element_on_another_site_sends_straight_to_s3(
    settings: Settings, service: Service, browser: Any, strict_s3: StrictS3, user: str
) -> None:
    token = sign_token(settings, user)
    with run_jobs(service), serve(settings) as port:
        api = f"http://127.0.0.1:{port}"
        with serve_shop(api, token, direct=True, max_bytes=len(JPEG)) as shop:
            upload = open_shop(browser, shop)
            permit(service, "https://www.example.com")
            assert upload(JPEG) == (None, "The connection was lost. Try again.")
            permit(service, shop.rstrip("/"))
            strict_s3.heads.clear()
            code, said = upload(JPEG + bytes(1))
            assert code == "file_too_large"
            assert said.startswith(f"The file is larger than the limit of {len(JPEG)} bytes")
            assert list_methods(strict_s3) == set(), "S3 would say it in XML"
            code, said = upload(b"no image".ljust(len(JPEG)))
            assert (code, said[:31]) == ("type_unsupported", "The file is of an unknown type.")
            image_id, said = upload(JPEG)
            assert said == "Done"
            value = "return new FormData(document.querySelector('form')).getAll('photo')"
            assert browser.execute_script(value) == [image_id]
    assert list_methods(strict_s3) == {"OPTIONS", "POST"}
    with service.database.read() as connection:
        job = job_store.find_image(connection, image_id)
    assert job is not None
    assert job.user_id == user

    strict_s3.heads.clear()
    strict_s3.has_post = False
    changed = settings.model_copy(update={"s3_direct_uploads": "put"})
    with run_jobs(service), serve(changed) as port:
        api = f"http://127.0.0.1:{port}"
        with serve_shop(api, token, direct=True, size=len(JPEG)) as shop:
            upload = open_shop(browser, shop)
            permit(service, shop.rstrip("/"))
            assert upload(JPEG)[1] == "Done"
            assert upload(JPEG[1:])[1] == "The storage refused the file (403). Try again."
    assert list_methods(strict_s3) == {"OPTIONS", "PUT"}


def open_shop(browser: Any, shop: str) -> Callable[[bytes], tuple[Any, str]]:
    """Open the page, and return a function that uploads a file.

    It returns the id of the image or the code of the problem, and what the page says.
    """
    browser.get(shop)
    element = browser.find_element("css selector", "image-upload")
    wait_until(lambda: browser.execute_script("return !!arguments[0].shadowRoot", element))

    def upload(content: bytes) -> tuple[Any, str]:
        before = browser.execute_script("return told.length")
        drop(browser, element, content)
        wait_until(lambda: browser.execute_script("return told.length") > before)
        state = element.shadow_root.find_element("css selector", ".state")
        return browser.execute_script("return told.at(-1)"), state.text

    return upload


def list_methods(strict_s3: StrictS3) -> set[str]:
    """Return the methods of the browser's requests to S3."""
    return {head.partition(" ")[0] for head in strict_s3.heads if "Mozilla" in head}


def permit(service: Service, origin: str) -> None:
    """Give the bucket the CORS rules of the documentation, for *origin*."""
    rules = Path("deploy/s3/cors.json").read_text().replace("https://www.example.com", origin)
    assert isinstance(service.staging, S3Storage)
    service.staging.client.put_bucket_cors(
        Bucket=service.settings.s3_bucket, CORSConfiguration=json.loads(rules)
    )


@pytest.mark.parametrize("data", [JPEG, LARGE], ids=["small", "large"])
def test_a_file_goes_straight_to_s3_and_becomes_an_image(
    client: TestClient, service: Service, issue: Issue, strict_s3: StrictS3, data: bytes
) -> None:
    issued = issue(metadata={"order": 17})
    assert issued["direct"]["url"].startswith(strict_s3.url)
    assert send(issued["direct"], data) == 204
    strict_s3.heads.clear()
    accepted = client.post(issued["complete_url"])
    assert accepted.status_code == 202, accepted.text
    assert accepted.json()["image_id"] == issued["image_id"]
    assert accepted.headers["x-ratelimit-remaining"] == "2"
    sent = [head.partition(" ")[0] for head in strict_s3.heads if "Content-Length: 0" not in head]
    assert "PUT" not in sent, "S3 copies the file itself"
    job_id = accepted.json()["job_id"]
    assert find_source(service, job_id) == data
    assert client.get(issued["upload_url"]).status_code == 409
    run_job(service, job_id, "test")
    result = client.get(issued["upload_url"]).json()
    assert (result["image_id"], result["context"]) == (issued["image_id"], {"order": 17})
    for name in (job_id, issued["image_id"]):
        assert not service.staging.exists(f"photos/{name}")


def test_completing_may_wait_for_the_result(
    client: TestClient, service: Service, issue: Issue
) -> None:
    issued = issue()
    send(issued["direct"])
    accepted = client.post(issued["complete_url"]).json()
    run_job(service, accepted["job_id"], "test")
    answer = client.post(f"{issued['complete_url']}&wait=5")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert client.post(f"{issued['complete_url']}&wait=31").status_code == 422


def test_an_upload_is_completed_and_counted_once(
    client: TestClient, service: Service, issue: Issue
) -> None:
    issued = issue()
    send(issued["direct"])
    first, second = client.post(issued["complete_url"]), client.post(issued["complete_url"])
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert second.headers["x-ratelimit-remaining"] == "2"
    assert client.put(issued["upload_url"], content=JPEG).json() == first.json()
    assert find_code(client.put(issued["upload_url"], content=OTHER)) == (409, "ticket_spent")


def test_what_is_not_in_s3_yet_can_be_completed_later(client: TestClient, issue: Issue) -> None:
    issued = issue()
    assert find_code(client.post(issued["complete_url"])) == (409, "upload_missing")
    send(issued["direct"])
    assert client.post(issued["complete_url"]).status_code == 202


def test_a_file_replaced_after_completion_changes_nothing(
    client: TestClient, service: Service, issue: Issue
) -> None:
    issued = issue(max_bytes=len(OTHER) + len(JPEG))
    send(issued["direct"])
    accepted = client.post(issued["complete_url"]).json()
    assert send(issued["direct"], OTHER) == 204, "S3 cannot know that it is completed"
    assert find_source(service, accepted["job_id"]) == JPEG
    assert client.post(issued["complete_url"]).json() == accepted
    run_job(service, accepted["job_id"], "test")
    assert client.get(issued["upload_url"]).status_code == 200
    assert service.staging.exists(f"photos/{issued['image_id']}"), "until it is swept"


def test_a_file_replaced_while_it_is_read_is_not_accepted(
    client: TestClient, service: Service, issue: Issue, strict_s3: StrictS3
) -> None:
    issued = issue(max_bytes=len(OTHER) + len(JPEG))
    send(issued["direct"])
    strict_s3.before_copy.append(lambda: send(issued["direct"], OTHER))
    assert find_code(client.post(issued["complete_url"])) == (409, "upload_missing")
    assert service.staging.get(f"photos/{issued['image_id']}") == OTHER
    accepted = client.post(issued["complete_url"]).json()
    assert find_source(service, accepted["job_id"]) == OTHER


def test_requests_that_complete_an_upload_together_get_the_same_answer(
    client: TestClient, issue: Issue, strict_s3: StrictS3
) -> None:
    issued = issue()
    send(issued["direct"])
    answers = []
    strict_s3.before_copy.append(lambda: answers.append(client.post(issued["complete_url"]).json()))
    answers.append(client.post(issued["complete_url"]).json())
    assert answers[0] == answers[1]
    assert answers[0]["image_id"] == issued["image_id"]


def test_a_deleted_image_does_not_come_back(
    client: TestClient, settings: Settings, issue: Issue, user: str
) -> None:
    issued = issue()
    send(issued["direct"])
    client.post(issued["complete_url"])
    headers = {"Authorization": f"Bearer {sign_token(settings, user)}"}
    assert client.delete(f"/api/v1/images/{issued['image_id']}", headers=headers).status_code == 204
    assert find_code(client.post(issued["complete_url"])) == (409, "ticket_spent")
    send(issued["direct"])
    assert find_code(client.post(issued["complete_url"])) == (409, "ticket_spent")


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"a text, not an image", (415, "type_unsupported")),
        (JPEG[:200], (422, "image_truncated")),
        (JPEG + bytes(1000), (413, "file_too_large")),
        (b"", (422, "file_empty")),
    ],
    ids=["text", "truncated", "large", "empty"],
)
def test_a_refused_file_is_deleted_and_spends_nothing(
    client: TestClient,
    service: Service,
    issue: Issue,
    strict_s3: StrictS3,
    data: bytes,
    refusal: tuple[int, str],
) -> None:
    strict_s3.checks_size = False  # as servers that ignore content-length-range
    issued = issue(max_bytes=len(JPEG))
    assert send(issued["direct"], data) == 204
    answer = client.post(issued["complete_url"])
    assert find_code(answer) == refusal
    assert answer.headers["x-ratelimit-remaining"] == "3"
    assert not service.staging.exists(f"photos/{issued['image_id']}")
    assert send(issued["direct"]) == 204
    assert client.post(issued["complete_url"]).status_code == 202


def test_s3_refuses_what_is_too_large(client: TestClient, issue: Issue) -> None:
    issued = issue(max_bytes=len(JPEG) - 1)
    assert issued["direct"]["max_bytes"] == len(JPEG) - 1
    assert send(issued["direct"]) == 400
    assert find_code(client.post(issued["complete_url"])) == (409, "upload_missing")


def test_the_quota_counts_what_is_accepted(client: TestClient, issue: Issue) -> None:
    tickets = [issue() for _ in range(4)]
    for issued in tickets:
        send(issued["direct"])
    answers = [client.post(issued["complete_url"]).status_code for issued in tickets]
    assert answers == [202, 202, 202, 429]
    assert client.post(tickets[0]["complete_url"]).status_code == 202, "a repetition"


def test_foreign_and_old_tickets_complete_nothing(
    client: TestClient, settings: Settings, issue: Issue
) -> None:
    issued, other = issue(), issue()
    send(issued["direct"])
    path = urlsplit(issued["complete_url"]).path
    foreign = f"{path}?{urlsplit(other['complete_url']).query}"
    expired = sign_address(settings, timedelta(hours=2), issued["image_id"])
    for address in (path, foreign, expired, f"{path}?ticket=x"):
        assert find_code(client.post(address)) == (403, "ticket_invalid"), address
    slow = sign_address(settings, timedelta(minutes=50), issued["image_id"])
    assert client.post(slow).status_code == 202, "S3 may have received it slowly"


def test_s3_being_away_delays_completion(
    client: TestClient, issue: Issue, strict_s3: StrictS3
) -> None:
    issued = issue()
    send(issued["direct"])
    strict_s3.fail(503)
    answer = client.post(issued["complete_url"])
    assert find_code(answer) == (503, "storage_unavailable")
    assert "retry-after" in answer.headers
    assert strict_s3.url not in answer.text
    strict_s3.fail("none")
    strict_s3.fail(500, only="x-amz-copy-source")
    assert client.post(issued["complete_url"]).status_code == 503
    strict_s3.fail("none")
    assert client.post(issued["complete_url"]).status_code == 202


def test_what_is_never_completed_is_swept(
    client: TestClient, service: Service, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, completed = issue(), issue()
    for issued in (left, completed):
        send(issued["direct"])
    job_id = client.post(completed["complete_url"]).json()["job_id"]
    now = clock.utc_now()
    monkeypatch.setattr(clock, "utc_now", lambda: now + timedelta(hours=1))
    sweep(service, [UPLOAD_STEP])
    assert service.staging.exists(f"photos/{left['image_id']}")
    monkeypatch.setattr(clock, "utc_now", lambda: now + timedelta(hours=3))
    sweep(service, [UPLOAD_STEP])
    assert not service.staging.exists(f"photos/{left['image_id']}")
    assert find_source(service, job_id) == JPEG
    monkeypatch.undo()
    assert find_code(client.post(left["complete_url"])) == (409, "upload_missing")


def test_a_put_needs_the_size(service: Service) -> None:
    settings = service.settings.model_copy(update={"s3_direct_uploads": "put"})
    upload = DirectUpload("0b1f6c1e-5f0e-4d8e-9c57-3a6f1d2b7c90", "photos", 10**6)
    with pytest.raises(RequestError, match="Send the file's size in bytes as 'size'"):
        sign_upload(replace(service, settings=settings), upload, None, 60)


def test_a_size_above_the_limit_gets_no_ticket(
    client: TestClient, settings: Settings, user: str
) -> None:
    headers = {"Authorization": f"Bearer {sign_token(settings, user)}"}
    for limit in ({"max_bytes": 1000, "size": 1001}, {"size": settings.limits.max_bytes + 1}):
        answer = client.post(TICKETS, json={"bucket": "photos", **limit}, headers=headers)
        assert find_code(answer) == (413, "file_too_large")


def test_any_page_may_complete_an_upload(client: TestClient, issue: Issue) -> None:
    issued = issue()
    send(issued["direct"])
    answer = client.post(issued["complete_url"], headers=SITE)
    assert answer.headers["access-control-allow-origin"] == "*"


def test_what_a_ticket_permits_is_not_logged(
    client: TestClient, issue: Issue, strict_s3: StrictS3, capsys: pytest.CaptureFixture[str]
) -> None:
    issued = issue()
    strict_s3.fail(403)
    client.post(issued["complete_url"])
    strict_s3.fail("none")
    send(issued["direct"])
    client.post(issued["complete_url"])
    printed = "".join(capsys.readouterr())
    assert issued["image_id"] in printed
    fields = issued["direct"]["fields"]
    ticket = parse_qs(urlsplit(issued["complete_url"]).query)["ticket"][0]
    assert not [
        secret
        for secret in (ticket, fields["x-amz-signature"], fields["policy"])
        if secret in printed
    ]
