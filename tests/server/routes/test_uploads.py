"""Upload tickets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.database import clock
from imageprocessor.settings import Settings
from imageprocessor.tokens import Ticket, load_keys, sign_ticket
from tests.images import encode, photo

TICKETS = "/api/v1/uploads"
JPEG = encode(photo(80, 60), "JPEG")
OTHER = encode(photo(60, 80), "JPEG")
SITE = {"Origin": "https://shop.example"}

Token = Callable[..., dict[str, str]]


@pytest.fixture
def issue(client: TestClient, token: Token) -> Callable[..., dict[str, Any]]:
    """Return a function that gets a ticket."""

    def issue(**wanted: Any) -> dict[str, Any]:
        answer = client.post(TICKETS, json={"bucket": "photos", **wanted}, headers=token("ann"))
        assert answer.status_code == 201, answer.text
        issued: dict[str, Any] = answer.json()
        return issued

    return issue


Issue = Callable[..., dict[str, Any]]


def test_a_ticket_accepts_one_image_without_a_token(
    client: TestClient, issue: Issue, token: Token, run: Callable[[str], None]
) -> None:
    issued = issue(metadata={"order": 17})
    accepted = client.put(issued["upload_url"], content=JPEG)
    assert accepted.status_code == 202
    assert accepted.json()["image_id"] == issued["image_id"]
    assert client.get(issued["upload_url"]).status_code == 409
    run(accepted.json()["job_id"])
    result = client.get(issued["upload_url"]).json()
    assert result["image_id"] == issued["image_id"]
    assert result["context"] == {"order": 17}
    job = client.get(accepted.json()["status_url"], headers=token("ann")).json()
    assert job["context"] == {"order": 17}, "the image belongs to the user who got the ticket"


def test_a_form_may_be_posted_to_a_ticket(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    answer = client.post(url, files={"file": ("a.jpg", JPEG)}, data={"bucket": "photos"})
    assert answer.status_code == 202


def test_a_form_for_another_bucket_is_refused(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    answer = client.post(url, files={"file": ("a.jpg", JPEG)}, data={"bucket": "others"})
    assert (answer.status_code, answer.json()["code"]) == (403, "ticket_invalid")
    assert client.put(url, content=JPEG).status_code == 202, "the ticket is not spent"


def test_the_same_file_may_be_sent_again(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    first, second = client.put(url, content=JPEG), client.put(url, content=JPEG)
    assert second.status_code == 202
    assert second.json() == first.json()


def test_a_ticket_is_spent_by_the_first_file(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    client.put(url, content=JPEG)
    answer = client.put(url, content=OTHER)
    assert (answer.status_code, answer.json()["code"]) == (409, "ticket_spent")


@pytest.mark.parametrize("content", [JPEG, OTHER], ids=["same", "other"])
def test_a_ticket_does_not_bring_back_a_deleted_image(
    client: TestClient, issue: Issue, token: Token, content: bytes
) -> None:
    issued = issue()
    client.put(issued["upload_url"], content=JPEG)
    image = f"/api/v1/images/{issued['image_id']}"
    assert client.delete(image, headers=token("ann")).status_code == 204
    answer = client.put(issued["upload_url"], content=content)
    assert (answer.status_code, answer.json()["code"]) == (409, "ticket_spent")
    assert client.get(issued["upload_url"]).status_code == 404


def test_a_refused_file_does_not_spend_a_ticket(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    assert client.put(url, content=b"no image").status_code == 415
    assert client.put(url, content=b"").json()["code"] == "file_missing"
    assert client.put(url, content=JPEG).status_code == 202


@pytest.mark.parametrize("declares", [True, False])
def test_a_file_above_the_limit_of_the_ticket_is_refused(
    client: TestClient, issue: Issue, declares: bool
) -> None:
    url = issue(max_bytes=len(JPEG) - 1)["upload_url"]
    answer = client.put(url, content=JPEG if declares else iter([JPEG[:100], JPEG[100:]]))
    assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")


def test_an_expired_ticket_reads_but_does_not_upload(
    client: TestClient, settings: Settings, run: Callable[[str], None]
) -> None:
    def address(age: timedelta) -> str:
        ticket = Ticket("0b1f6c1e-5f0e-4d8e-9c57-3a6f1d2b7c90", "ann", "photos", 10**6)
        signed = sign_ticket(load_keys(settings), settings, ticket, clock.utc_now() - age)
        return f"{TICKETS}/{ticket.image_id}?ticket={signed}"

    accepted = client.put(address(timedelta(minutes=-1)), content=JPEG)
    run(accepted.json()["job_id"])
    ended = address(timedelta(minutes=10))
    refused = client.put(ended, content=JPEG)
    assert (refused.status_code, refused.json()["code"]) == (403, "ticket_invalid")
    assert "has expired" in refused.json()["detail"]
    assert client.get(ended).status_code == 200
    assert client.get(address(timedelta(hours=3))).status_code == 403


def test_a_ticket_is_no_token_and_a_token_no_ticket(
    client: TestClient, issue: Issue, token: Token
) -> None:
    issued = issue()
    ticket = parse_qs(urlsplit(issued["upload_url"]).query)["ticket"][0]
    bearer = {"Authorization": f"Bearer {ticket}"}
    form = {"file": ("a.jpg", JPEG)}
    upload = "/api/v1/images/upload"
    answer = client.post(upload, headers=bearer, files=form, data={"bucket": "photos"})
    assert answer.status_code == 401
    user_token = token("ann")["Authorization"].removeprefix("Bearer ")
    place = f"{TICKETS}/{issued['image_id']}"
    for wrong in (user_token, "", "x", "é", ticket[:-4], "x" * 9000):
        answer = client.put(place, params={"ticket": wrong}, content=JPEG)
        assert (answer.status_code, answer.json()["code"]) == (403, "ticket_invalid"), wrong
    other = issue()["upload_url"].partition("?")[2]
    assert client.put(f"{place}?{other}", content=JPEG).json()["code"] == "ticket_invalid"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"bucket": "No"}, 422),
        ({"metadata": {"a": "x" * 5000}}, 422),
        ({"metadata": []}, 422),
        ({"expires_in": 3601}, 422),
        ({"expires_in": 0}, 422),
        ({"max_bytes": 0}, 422),
        ({"webhook": "nobody"}, 422),
        ({"sub": "bob"}, 403),
        ({"size": "large"}, 422),
    ],
)
def test_what_no_ticket_may_be(
    client: TestClient, token: Token, wanted: dict[str, Any], status: int
) -> None:
    answer = client.post(TICKETS, json={"bucket": "photos", **wanted}, headers=token("ann"))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_ticket_needs_a_token(client: TestClient) -> None:
    assert client.post(TICKETS, json={"bucket": "photos"}).status_code == 401


def test_an_admin_may_get_a_ticket_for_another_user(client: TestClient, token: Token) -> None:
    wanted = {"bucket": "photos", "sub": "bob"}
    issued = client.post(TICKETS, json=wanted, headers=token("root", admin=True)).json()
    accepted = client.put(issued["upload_url"], content=JPEG)
    assert accepted.headers["x-ratelimit-remaining"] == "49"
    answer = client.delete(f"/api/v1/images/{issued['image_id']}", headers=token("bob"))
    assert answer.status_code == 204


@pytest.mark.parametrize("settings", [{"rate_limit_max_uploads": 1}], indirect=True)
def test_an_upload_with_a_ticket_counts(client: TestClient, issue: Issue) -> None:
    first, second = issue()["upload_url"], issue()["upload_url"]
    assert client.put(first, content=JPEG).status_code == 202
    assert client.put(second, content=JPEG).status_code == 429
    assert client.put(first, content=JPEG).status_code == 202, "a repetition does not count"


def test_any_page_may_use_a_ticket(client: TestClient, issue: Issue) -> None:
    url = issue()["upload_url"]
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "prefer"}
    preflight = client.options(url, headers={**SITE, **asked})
    assert preflight.status_code == 200
    for answer in (
        client.put(url, content=b"no image", headers=SITE),
        client.get(url, headers=SITE),
    ):
        assert answer.status_code >= 400
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_no_page_of_another_site_may_ask_for_a_ticket(client: TestClient, token: Token) -> None:
    headers = {**SITE, **token("ann")}
    answer = client.post(TICKETS, json={"bucket": "photos"}, headers=headers)
    assert "access-control-allow-origin" not in answer.headers


def test_the_ticket_is_not_logged(
    client: TestClient, issue: Issue, capsys: pytest.CaptureFixture[str]
) -> None:
    url = issue()["upload_url"]
    client.put(url, content=JPEG)
    printed = "".join(capsys.readouterr())
    assert parse_qs(urlsplit(url).query)["ticket"][0] not in printed


def test_a_direct_upload_needs_s3(client: TestClient, issue: Issue, token: Token) -> None:
    wanted = {"bucket": "photos", "direct": True}
    answer = client.post(TICKETS, json=wanted, headers=token("ann"))
    assert (answer.status_code, answer.json()["code"]) == (422, "direct_unsupported")
    assert "Leave out 'direct'" in answer.json()["detail"]
    issued = issue()
    assert "direct" not in issued
    answer = client.post(issued["upload_url"].replace("?", "/complete?"))
    assert answer.json()["code"] == "direct_unsupported"
