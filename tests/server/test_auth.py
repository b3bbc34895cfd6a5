from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.queue.service import Service
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys
from tests.server.conftest import UPLOAD
from tests.server.live import get, serve

PRIVATE = pytest.mark.parametrize("settings", [{"public_reads": False}], indirect=True)
OLD_KEY = "an old key that is long enough, 32+"
UNSIGNED = jwt.encode({"sub": "ann"}, "", algorithm="none")


def sign(
    settings: Settings, algorithm: str = "HS256", key: str | None = None, **claims: Any
) -> str:
    return jwt.encode(
        {"sub": "ann"} | claims, key or load_keys(settings).signing, algorithm=algorithm
    )


def reads(image: dict[str, str]) -> list[str]:
    job, image_path = (
        f"/api/v1/images/jobs/{image['job_id']}",
        f"/api/v1/images/{image['image_id']}",
    )
    file = f"/storage/photos/processed/medium/{image['image_id']}_medium.webp"
    return [
        job,
        f"{job}/result",
        f"{job}/events",
        image_path,
        f"{image_path}/all",
        f"{image_path}/direct",
        file,
    ]


def batch_path(image: dict[str, str]) -> str:
    return f"/api/v1/images/batch?image_ids={image['image_id']}"


def test_upload_and_delete_need_a_token(client: TestClient, image: dict[str, str]) -> None:
    for answer in (client.post(UPLOAD), client.delete(f"/api/v1/images/{image['image_id']}")):
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
        assert answer.headers["www-authenticate"] == "Bearer"


def _forged(header: dict[str, str], settings: Settings) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, {"sub": "ann"})
    ]
    return b".".join([*parts, b"c2lnbmF0dXJl"]).decode()


@pytest.mark.parametrize(
    "make",
    [
        lambda _: "nonsense",
        lambda _: "a.b.c",
        lambda _: UNSIGNED,
        lambda _: "x" * 10_000,
        lambda settings: sign(settings, key="another key that is long enough, 32+"),
        lambda settings: sign(settings, "HS512"),
        lambda settings: _forged({"alg": "RS256", "typ": "JWT"}, settings),
        lambda settings: _forged({"alg": "HS256", "crit": "x"}, settings),
        lambda settings: sign(settings, exp=datetime.now(UTC) - timedelta(seconds=11)),
        lambda settings: sign(settings, sub=""),
        lambda settings: sign(settings, sub="x" * 300),
        lambda settings: sign(settings, aud="elsewhere"),
        lambda settings: jwt.encode({"scope": "images:admin"}, load_keys(settings).signing),
    ],
)
def test_every_bad_token_gets_the_same_401(
    client: TestClient, settings: Settings, make: Callable[[Settings], str]
) -> None:
    token = make(settings)
    with capture_logs() as logs:
        none, bad = (
            client.post(UPLOAD, headers=headers)
            for headers in (
                {"X-Request-ID": "1"},
                {"X-Request-ID": "1", "Authorization": f"Bearer {token}"},
            )
        )
    assert bad.content == none.content
    assert bad.status_code == none.status_code == 401
    assert bad.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert none.headers["www-authenticate"] == "Bearer"
    causes = [line["cause"] for line in logs if line["event"] == "token_refused"]
    assert len(set(causes)) == 2
    assert token not in str(logs)


def test_numeric_subject_is_a_401(client: TestClient, settings: Settings) -> None:
    payload = json.dumps({"sub": 17}).encode()
    token = jwt.api_jws.encode(payload, load_keys(settings).signing, algorithm="HS256")
    assert client.post(UPLOAD, headers={"Authorization": f"Bearer {token}"}).status_code == 401


@pytest.mark.parametrize(
    "header", ["Basic YW5uOmFubg==", "Bearer", "Bearer ", "bearer\tx", "Bearer \x7f"]
)
def test_other_authentication_scheme_is_a_401(client: TestClient, header: str) -> None:
    answer = client.post(UPLOAD, headers={"Authorization": header})
    assert answer.status_code == 401
    was_sent = header == "Bearer \x7f"
    challenge = 'Bearer error="invalid_token"' if was_sent else "Bearer"
    assert answer.headers["www-authenticate"] == challenge


@pytest.mark.parametrize("settings", [{"jwt_previous_secret_keys": [OLD_KEY]}], indirect=True)
def test_token_signed_with_a_previous_key_is_accepted(
    client: TestClient, settings: Settings
) -> None:
    headers = {"Authorization": f"bearer {sign(settings, key=OLD_KEY)}"}
    assert client.post(UPLOAD, headers=headers).json()["code"] == "form_invalid"


@pytest.mark.parametrize(
    "settings",
    [{"jwt_require_exp": True}, {"jwt_audience": "images"}, {"jwt_issuer": "us"}],
    indirect=True,
)
def test_claim_required_by_the_settings_is_checked(client: TestClient, settings: Settings) -> None:
    assert (
        client.post(UPLOAD, headers={"Authorization": f"Bearer {sign(settings)}"}).status_code
        == 401
    )
    good = sign(settings, exp=datetime.now(UTC) + timedelta(hours=1), aud="images", iss="us")
    if settings.jwt_audience:
        assert client.post(UPLOAD, headers={"Authorization": f"Bearer {good}"}).status_code == 400


def test_public_reads_need_no_token_and_ignore_an_invalid_one(
    client: TestClient, image: dict[str, str]
) -> None:
    for path in [*reads(image), batch_path(image)]:
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200


@PRIVATE
def test_private_reads_need_a_valid_token(client: TestClient, image: dict[str, str]) -> None:
    for path in [*reads(image), batch_path(image)]:
        for headers in (
            {},
            {"Authorization": "Bearer nonsense"},
            {"Authorization": f"Bearer {UNSIGNED}"},
        ):
            assert client.get(path, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "scope",
    ["images:admins", "Images:Admin", "xximages:admin", ["images:admin"], {"images:admin": 1}],
)
def test_scope_similar_to_the_admin_scope_gives_no_rights(
    client: TestClient, settings: Settings, image: dict[str, str], scope: Any
) -> None:
    headers = {"Authorization": f"Bearer {sign(settings, sub='bob', scope=scope)}"}
    assert client.get("/api/v1/health/failed", headers=headers).status_code == 403
    assert client.delete(f"/api/v1/images/{image['image_id']}", headers=headers).status_code == 404


#: See test_batches.py, test_uploads.py and test_upload_page.py.
TESTED_ELSEWHERE = ("/api/v1/batches/", "/api/v1/uploads/", "/upload/")


def fill(path: str, image: dict[str, str]) -> str:
    """Return a route's path with the ids of *image*."""
    values = {
        "job_id": image["job_id"],
        "image_id": image["image_id"],
        "image_id:image_id": image["image_id"],
    }
    file = {"bucket": "photos", "size": "medium", "name": f"{image['image_id']}_medium.webp"}
    for name, value in (values | file).items():
        path = path.replace(f"{{{name}}}", value)
    return path


@PRIVATE
def test_private_images_are_visible_to_their_owner_and_admins_only(
    client: TestClient,
    settings: Settings,
    image: dict[str, str],
    token: Callable[..., dict[str, str]],
) -> None:
    routes = [
        (method, fill(route.path, image))
        for route in create_app(settings).state.routes
        if "{" in route.path and not route.path.startswith(TESTED_ELSEWHERE)
        for method in sorted(route.methods)
    ]
    assert {path for _, path in routes} == {*reads(image)}, "a route is missing from this test"
    for method, path in sorted(routes, key=lambda route: route[0] == "DELETE"):
        assert client.request(method, path).status_code == 401
        assert (
            client.request(
                method, path, headers={"Authorization": f"Bearer {UNSIGNED}"}
            ).status_code
            == 401
        )
        assert client.request(method, path, headers=token("bob")).status_code == 404
        for headers in (token("root", admin=True), token("ann"))[method == "DELETE" :]:
            assert client.request(method, path, headers=headers).status_code == (
                204 if method == "DELETE" else 200
            )


@PRIVATE
def test_another_users_image_looks_nonexistent(
    client: TestClient, image: dict[str, str], token: Callable[..., dict[str, str]]
) -> None:
    nobodys = dict.fromkeys(image, "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13")
    headers = token("bob") | {"X-Request-ID": "1"}
    for theirs, none in zip(
        [*reads(image), batch_path(image)], [*reads(nobodys), batch_path(nobodys)], strict=True
    ):
        answers = [client.get(path, headers=headers) for path in (theirs, none)]
        bodies = [re.sub("[0-9a-f-]{36}", "ID", answer.text) for answer in answers]
        assert bodies[0] == bodies[1]
        assert answers[0].status_code == answers[1].status_code


def spellings(image: dict[str, str]) -> list[str]:
    """Return spellings of a stored file's path that this server, or a proxy, might accept."""
    name = f"{image['image_id']}_medium.webp"
    path = f"/storage/photos/processed/medium/{name}"
    return [
        path,
        "".join(f"%{ord(letter):02x}" if letter != "/" else letter for letter in path),
        path.replace("/", "%2f").replace("%2f", "/", 1),
        path.replace("e", "%65"),
        path.replace("storage", "Storage"),
        path.upper(),
        path.replace("photos", "PHOTOS"),
        path.replace(image["image_id"], image["image_id"].upper()),
        path.replace("/", "//"),
        f"/{path}",
        path.replace("/processed", "/./processed"),
        path.replace("/processed", "/../photos/processed"),
        path.replace("/medium/", "/medium\\"),
        path.replace("/medium/", "/medium/%2e%2e/medium/"),
        path.replace("/medium/", "/medium/..;/medium/"),
        f"{path}.",
        f"{path}/",
        f"{path}%20",
        f"{path}%00",
        f"{path};x",
        f"{path}?token=x",
        f"{path}%3f",
        path.replace("medium", "thumbnail"),
        path.replace("photos", "others"),
        f"/storage/photos/processed/medium/..%2f..%2f..%2fphotos%2fprocessed%2fmedium%2f{name}",
        f"/static-offline-docs/..%2f..{path}",
        f"/static-offline-docs/%2e%2e/%2e%2e{path}",
    ]


@PRIVATE
def test_no_spelling_of_its_path_serves_a_private_image(
    settings: Settings,
    service: Service,
    image: dict[str, str],
    token: Callable[..., dict[str, str]],
) -> None:
    with serve(settings) as port:
        assert get(port, spellings(image)[0], **token("ann"))[1].startswith(b"RIFF")
        for path in spellings(image):
            for headers in ({}, token("bob"), {"Authorization": f"Bearer {UNSIGNED}"}):
                answer, data = get(port, path, **headers)
                assert answer.status in {401, 404}, path
                assert b"WEBP" not in data


@PRIVATE
def test_private_images_of_others_are_missing_from_a_batch(
    client: TestClient, image: dict[str, str], token: Callable[..., dict[str, str]]
) -> None:
    assert client.get(batch_path(image), headers=token("bob")).json() == {
        "images": [],
        "missing": [image["image_id"]],
    }
    assert client.get(batch_path(image), headers=token("ann")).json()["missing"] == []


def test_only_an_admin_sees_failed_jobs(
    client: TestClient, token: Callable[..., dict[str, str]]
) -> None:
    answers = [
        client.get("/api/v1/health/failed", headers=headers)
        for headers in ({}, token("ann"), token("root", admin=True))
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 200]
    assert answers[1].json()["code"] == "admin_required"
    assert answers[1].headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
