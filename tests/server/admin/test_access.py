"""Who gets in, and who may act."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from itertools import chain
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from imageprocessor.queue.access import Caller
from imageprocessor.queue.pause import read_pause
from imageprocessor.queue.service import Service
from imageprocessor.server.admin.access import LOOPBACK_COOKIE, SECURE_COOKIE
from imageprocessor.server.admin.router import ROUTERS
from imageprocessor.settings import Settings
from imageprocessor.tokens import Session, load_keys, sign_session, sign_token
from tests.server.admin.conftest import OWN

NOBODY = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
PARAMETERS = {"any_id": NOBODY, "job_id": NOBODY, "image_id": NOBODY, "delivery_id": NOBODY}
PARAMETERS |= {"name": "shop", "path": "nothing"}
LOGIN = ("/admin/login", "/admin/logout")


def list_paths(method: str) -> list[str]:
    """Return the paths of the routes that only take *method*, except those of the login."""
    paths = []
    for route in chain.from_iterable(router.routes for router in ROUTERS):
        assert isinstance(route, APIRoute)
        if route.methods == {method} and not route.path.startswith((*LOGIN, "/admin/static")):
            paths.append(route.path.format(**PARAMETERS))
    return paths


PAGES, ACTIONS = list_paths("GET"), list_paths("POST")


def read_cookie(answer: Any) -> tuple[str, Any]:
    ((name, cookie),) = SimpleCookie(answer.headers["set-cookie"]).items()
    return name, cookie


def test_lists_have_pages_and_actions() -> None:
    assert "/admin/jobs" in PAGES
    assert "/admin/jobs/retry" in ACTIONS
    assert len(ACTIONS) >= 9


def test_pages_and_actions_need_a_login(client: TestClient) -> None:
    for path in [*PAGES, "/admin/nothing"]:
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"].startswith("text/html")
        assert f'name="wanted" value="{path}"' in answer.text
        assert "imageprocessor token --sub NAME --admin --expires 12h" in answer.text
    for path in ACTIONS:
        assert client.post(path, headers=OWN).status_code == 401, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "https://localhost"},
        {"Origin": "null"},
        {},
    ],
)
def test_other_sites_cannot_act(log_in: Callable[..., TestClient], headers: dict[str, str]) -> None:
    client = log_in()
    for path in [*ACTIONS, *LOGIN]:
        answer = client.post(path, headers=headers)
        assert answer.status_code == 403, path
        assert "Nothing was done" in answer.text


def test_browsers_without_sec_fetch_site_name_their_origin(
    log_in: Callable[..., TestClient], service: Service
) -> None:
    answer = log_in().post("/admin/pause", headers={"Origin": "http://localhost"})
    assert answer.status_code == 303
    assert read_pause(service)


def test_readers_may_look_but_not_act(
    log_in: Callable[..., TestClient], upload: Callable[..., Any]
) -> None:
    job_id = upload()["job_id"]
    reader = log_in("rita", reads_all=True)
    for path in ACTIONS:
        answer = reader.post(path, headers=OWN)
        assert answer.status_code == 403, path
        assert "images:admin" in answer.text
    for path in ("", "/jobs", f"/jobs/{job_id}", "/images", "/webhooks", "/actions", "/settings"):
        answer = reader.get(f"/admin{path}")
        assert answer.status_code == 200, path
        assert "commandfor" not in answer.text
        assert answer.text.count('<form method="post"') == 1  # to log out


def test_address_of_an_action_is_no_page(admin: TestClient) -> None:
    for path in ACTIONS:
        answer = admin.get(path)
        # Some actions share their form with pages of an id: there is no job called "retry".
        assert answer.status_code in {404, 405, 422}, path
        assert answer.headers["content-type"].startswith("text/html")
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert admin.request(method, path).status_code == 405, path
    assert admin.post("/admin/jobs").status_code == 405


WRONG = [
    ("/nothing", 404),
    (f"/jobs/{NOBODY}", 404),
    ("/jobs/x", 422),
    ("/jobs?after=x", 422),
    ("/jobs?status=lost", 422),
    ("/jobs?since=yesterday", 422),
    ("/jobs?before=2024-11-08T14:00%2B99:00", 422),
    ("/jobs?page=x&after=%00", 422),
    ("/actions?before=x", 400),
    ("/actions?before=2024-11-08T14:00", 400),
    ("/webhooks/shop?status=x", 400),
    (f"/images/{NOBODY}/medium", 404),
    ("/webhooks/shop", 404),
    ("/webhooks/%3Cscript%3E", 404),
    (f"/webhooks/deliveries/{NOBODY}", 404),
    ("/webhooks/deliveries/x", 422),
    ("/find?id=x", 422),
    ("/static/base.html", 404),
]


def test_odd_values_find_nothing(admin: TestClient) -> None:
    for query in (
        "user=%00",
        "user=%ff",
        "code=%F0%9F%98%80",
        "since=0001-01-01",
        "before=9999-12-31",
    ):
        assert admin.get(f"/admin/jobs?{query}").status_code == 200, query


def test_wrong_addresses_are_answered_with_pages(admin: TestClient) -> None:
    for path, status in WRONG:
        answer = admin.get(f"/admin{path}")
        assert answer.status_code == status, path
        assert "Go to the overview" in answer.text
        assert "<script>" not in answer.text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: "x", "not valid: not a well-formed JWT"),
        (lambda _: "x" * 9000, "not valid: longer than 8192 characters"),
        (lambda _: "", "not valid: not a well-formed JWT"),
        (lambda settings: sign_token(settings, "ann"), "That token is a user's"),
        (
            lambda settings: sign_token(
                settings, "olga", admin=True, lifetime=timedelta(minutes=-1)
            ),
            "not valid: exp is in the past",
        ),
        (
            lambda settings: sign_token(
                settings.model_copy(update={"jwt_audience": "another"}), "olga", admin=True
            ),
            "not valid: aud is not JWT_AUDIENCE",
        ),
    ],
)
def test_refused_tokens(
    client: TestClient, settings: Settings, make: Callable[[Settings], str], said: str
) -> None:
    answer = client.post("/admin/login", data={"token": make(settings)}, headers=OWN)
    assert answer.status_code == 401
    assert said in html.unescape(answer.text)
    assert "set-cookie" not in answer.headers


def test_cookie_over_http_is_for_the_pages_of_this_machine(
    client: TestClient, settings: Settings
) -> None:
    token = sign_token(settings, "olga", admin=True)
    answer = client.post("/admin/login", data={"token": f" {token}\n"}, headers=OWN)
    name, cookie = read_cookie(answer)
    assert name == LOOPBACK_COOKIE
    assert (cookie["path"], cookie["samesite"]) == ("/admin", "lax")
    assert cookie["httponly"]
    assert not cookie["secure"]
    assert token not in answer.headers["set-cookie"]


def test_cookie_over_https_is_for_this_host(client: TestClient, settings: Settings) -> None:
    client.base_url = client.base_url.copy_with(scheme="https", host="images.example.com")
    token = sign_token(settings, "olga", admin=True)
    answer = client.post("/admin/login", data={"token": token}, headers=OWN)
    name, cookie = read_cookie(answer)
    assert name == SECURE_COOKIE
    assert (cookie["path"], cookie["samesite"], cookie["domain"]) == ("/", "lax", "")
    assert cookie["httponly"]
    assert cookie["secure"]
    assert client.get("/admin").status_code == 200


@pytest.mark.parametrize(
    ("lifetime", "longest"),
    [(None, timedelta(hours=12)), (timedelta(minutes=5), timedelta(minutes=5, seconds=10))],
)
def test_session_ends_with_its_token_and_after_12_hours(
    client: TestClient, settings: Settings, lifetime: timedelta | None, longest: timedelta
) -> None:
    token = sign_token(settings, "olga", admin=True, lifetime=lifetime)
    answer = client.post("/admin/login", data={"token": token}, headers=OWN)
    _, cookie = read_cookie(answer)
    ends_at = datetime.strptime(cookie["expires"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    left = ends_at - datetime.now(UTC)
    assert longest - timedelta(minutes=1) < left <= longest


@pytest.mark.parametrize(
    "make",
    [
        lambda settings: sign_token(settings, "olga", admin=True),
        lambda settings: sign_session(
            load_keys(settings),
            settings,
            Session(Caller("olga", admin=True), datetime.now(UTC) - timedelta(minutes=1)),
        ),
        lambda settings: sign_session(
            load_keys(settings),
            settings,
            Session(Caller("ann"), datetime.now(UTC) + timedelta(hours=1)),
        ),
        lambda _: "x",
        lambda _: "x" * 9000,
    ],
)
def test_only_a_session_that_has_not_ended_is_a_cookie(
    client: TestClient, settings: Settings, make: Callable[[Settings], str]
) -> None:
    client.cookies.set(LOOPBACK_COOKIE, make(settings), path="/admin")
    answer = client.get("/admin")
    assert answer.status_code == 401
    assert "Your session has ended" in answer.text


def test_api_does_not_accept_the_cookie(admin: TestClient) -> None:
    session = admin.cookies[LOOPBACK_COOKIE]
    path = "/api/v1/health/failed"
    cookie = {"Cookie": f"{LOOPBACK_COOKIE}={session}; {SECURE_COOKIE}={session}"}
    assert admin.get(path, headers=cookie).status_code == 401
    assert admin.get(path, headers={"Authorization": f"Bearer {session}"}).status_code == 401


@pytest.mark.parametrize(
    "host", ["images.example.com", "localhost.evil.example", "127.0.0.1.evil.example", "[", ""]
)
def test_plain_http_is_refused_except_on_this_machine(admin: TestClient, host: str) -> None:
    for answer in (
        admin.get("/admin", headers={"Host": host}),
        admin.get("/admin/login", headers={"Host": host}),
        admin.post("/admin/login", data={"token": "x"}, headers={"Host": host}),
    ):
        assert answer.status_code == 403
        assert "https://" in answer.text
        assert "<form" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "a.localhost"])
def test_plain_http_on_this_machine(admin: TestClient, host: str) -> None:
    assert admin.get("/admin/login", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/admin/jobs?status=failed", "/admin/jobs?status=failed"),
        ("//evil.example", "/admin"),
        ("https://evil.example/admin/", "/admin"),
        ("/admin/\\evil.example", "/admin"),
        ("/administrator", "/admin"),
        ("/admin/\r\nSet-Cookie: a=b", "/admin"),
    ],
)
def test_login_leads_to_the_page_that_was_wanted(
    client: TestClient, settings: Settings, wanted: str, location: str
) -> None:
    fields = {"token": sign_token(settings, "olga", admin=True), "wanted": wanted}
    answer = client.post("/admin/login", data=fields, headers=OWN)
    assert answer.headers["location"] == location


def test_form_may_not_be_long(client: TestClient) -> None:
    answer = client.post("/admin/login", data={"token": "x" * 20_000}, headers=OWN)
    assert answer.status_code == 413


def test_log_out(admin: TestClient) -> None:
    answer = admin.post("/admin/logout")
    assert answer.headers["location"] == "/admin/login?notice=logged_out&count=0"
    assert LOOPBACK_COOKIE not in admin.cookies
    assert "You have logged out" in admin.get(answer.headers["location"]).text
    assert admin.get("/admin").status_code == 401


@pytest.mark.parametrize("settings", [{"cors_origins": ["https://app.example"]}], indirect=True)
def test_pages_of_other_sites_may_not_read_these(admin: TestClient) -> None:
    answer = admin.get("/admin", headers={"Origin": "https://app.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_pages_are_not_kept_and_have_a_strict_policy(admin: TestClient) -> None:
    headers = admin.get("/admin").headers
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_notice_shows_no_text_of_the_address(admin: TestClient) -> None:
    assert "<b>" not in admin.get("/admin?notice=<b>hacked&count=<b>1").text
    assert "hacked" not in admin.get("/admin?notice=retried_many&count=hacked").text


@pytest.mark.parametrize("settings", [{"admin_ui": False}], indirect=True)
@pytest.mark.parametrize("path", ["/admin", "/admin/login", "/admin/static/admin.css"])
def test_pages_are_off_unless_wanted(client: TestClient, path: str) -> None:
    assert client.get(path).json()["code"] == "not_found"
