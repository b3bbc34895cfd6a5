from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from imageprocessor.queue.service import s3_access
from imageprocessor.server.events.preferences import MAX_WAIT_SECONDS
from imageprocessor.server.events.stream import PING_SECONDS
from imageprocessor.server.threads import WAIT_SECONDS
from imageprocessor.settings import Settings
from imageprocessor.storage.s3 import ATTEMPTS
from tests.deploy.compose import ROOT
from tests.deploy.live import (
    UPLOAD,
    Place,
    authorization,
    image_path,
    run_service,
    upload_headers,
)
from tests.deploy.traffic import (
    NO_LIMIT,
    count_statuses,
    restart,
    run_apis,
    run_balancer,
    secure,
    steady_uploads,
    upload_in_rounds,
)
from tests.images import encode, photo
from tests.server.live import BOUNDARY, form_body, form_start
from tests.servers import find_free_port
from tests.servers.faults import run_slow_line
from tests.servers.nginx import run_nginx
from tests.servers.processes import wait_for

MEGABYTE = 1024 * 1024
NGINX_CONF = (ROOT / "deploy/nginx.conf").read_text()
PROXY_CONF = (ROOT / "deploy/nginx/proxy.conf").read_text()
SERVED_BY_NGINX = {"# include": "include"}
UNDER_A_PATH = {
    "location / {\n        proxy_pass http://imageprocessor;": (
        "location /images/ {\n        proxy_pass http://imageprocessor/;"
    )
}
SHORT_WAITS = {
    "client_header_timeout 10s": "client_header_timeout 1s",
    "client_body_timeout 20s": "client_body_timeout 1s",
}
IMAGE_SIZES = '{"thumbnail": {"width": 150, "formats": ["webp", "avif", "jpeg", "png"]}}'
SECRET = b"still with GPS"
UNKNOWN = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
# Headers that depend on who answered, when and on which connection. nginx makes its ETag from time
# and size, the service from a hash of them.
OWN_HEADERS = {"date", "server", "connection", "etag", "x-request-id"}


@dataclass(frozen=True, slots=True)
class Site:
    """A service with one image, behind one nginx that passes all on and one that serves files."""

    data: Path
    service: Place
    passing: Place
    serving: Place
    image_id: str

    @property
    def path(self) -> str:
        return image_path(self.image_id)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    data = folder / "data"
    with (
        run_service(data, IMAGE_SIZES=IMAGE_SIZES) as service,
        run_nginx(folder / "passing", service.port, data / "storage", SHORT_WAITS) as passing,
        run_nginx(folder / "serving", service.port, data / "storage", SERVED_BY_NGINX) as serving,
    ):
        image_id = service.make_image()
        site = Site(data, service, secure(passing), secure(serving), image_id)
        plant_secrets(site)
        yield site


def plant_secrets(site: Site) -> None:
    """Put files that nobody may fetch where a proxy could find them."""
    storage = site.data / "storage"
    for path in (
        site.data / "staging/photos/job",
        storage / ".tmp/draft",
        storage / "photos/processed/notes.txt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SECRET)
    (storage / image_path(UNKNOWN).removeprefix("/storage/")).symlink_to(
        site.data / "staging/photos/job"
    )


each_nginx = pytest.mark.parametrize(
    "place", [lambda site: site.passing, lambda site: site.serving], ids=["passing", "serving"]
)
Choice = Callable[[Site], Place]


@each_nginx
def test_uploads_and_images_pass_through(site: Site, place: Choice) -> None:
    image_id = place(site).make_image()
    direct = place(site).ask(f"/api/v1/images/{image_id}/direct?size=thumbnail")
    assert (direct.status, direct.body[8:12]) == (200, b"WEBP")


@each_nginx
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),  # not with a Range: nginx would apply it, which RFC 9110, 14.2, forbids
        ("GET", {}),
        ("GET", {"Range": "bytes=10-19"}),
        ("GET", {"Range": "bytes=0-1,4-5"}),
        ("GET", {"Range": "bytes=-5"}),
    ],
    ids=str,
)
def test_file_has_the_headers_of_the_service(
    site: Site, place: Choice, method: str, headers: dict[str, str]
) -> None:
    expected = site.service.ask(site.path, method, headers=headers)
    answer = place(site).ask(site.path, method, headers=headers)
    own = {"strict-transport-security": "max-age=31536000"}
    assert (answer.status, answer.body) == (expected.status, expected.body)
    assert shared_headers(answer.headers) == shared_headers(expected.headers) | own
    assert answer.headers["x-request-id"]


def shared_headers(headers: dict[str, str]) -> dict[str, str]:
    own = set(OWN_HEADERS)
    if "content-range" in headers:  # implies accept-ranges
        own.add("accept-ranges")
    return {name: value for name, value in headers.items() if name not in own}


@each_nginx
@pytest.mark.parametrize("suffix", ["avif", "jpg", "png"])
def test_each_format_has_the_headers_of_the_service(site: Site, place: Choice, suffix: str) -> None:
    path = site.path.replace(".webp", f".{suffix}")
    expected, answer = site.service.ask(path), place(site).ask(path)
    own = {"strict-transport-security": "max-age=31536000"}
    assert (answer.status, answer.body) == (200, expected.body)
    assert shared_headers(answer.headers) == shared_headers(expected.headers) | own


def test_nginx_serves_files_without_the_service(site: Site) -> None:
    assert (
        site.serving.ask(site.path).headers["etag"] != site.service.ask(site.path).headers["etag"]
    )
    assert (
        site.passing.ask(site.path).headers["etag"] == site.service.ask(site.path).headers["etag"]
    )


@each_nginx
def test_client_that_has_the_file_gets_no_body(site: Site, place: Choice) -> None:
    known = place(site).ask(site.path).headers["etag"]
    answer = place(site).ask(site.path, headers={"If-None-Match": known})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


@each_nginx
def test_range_beyond_the_end_is_a_problem(site: Site, place: Choice) -> None:
    answer = place(site).ask(site.path, headers={"Range": "bytes=99999999-"})
    assert (answer.status, problem(answer.body)["code"]) == (416, "range_not_satisfiable")


@each_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/storage/photos/job",
        "/storage/staging/photos/job",
        "/storage/../staging/photos/job",
        "/storage/%2e%2e/staging/photos/job",
        "/storage/photos/processed/../../../staging/photos/job",
        "/storage/photos/processed/%2e%2e/%2e%2e/%2e%2e/staging/photos/job",
        "/storage/photos/processed/..%2f..%2f..%2fstaging/photos/job",
        "/storage/photos/processed/thumbnail/../../../.tmp/draft",
        "/storage/.tmp/draft",
        "/storage/%2etmp/draft",
        "/storage//.tmp//draft",
        "/storage/photos/processed/notes.txt",
        "/storage/photos/processed/thumbnail/",
        "/storage/photos/processed",
        "/storage/",
        "/processor.db",
        "/jwt_secret_key",
        image_path(UNKNOWN),
        image_path(UNKNOWN, "medium"),
        image_path(UNKNOWN).replace("/processed", "//processed"),
        image_path(UNKNOWN) + "/",
        image_path(UNKNOWN) + "%00.webp",
    ],
)
def test_other_paths_are_not_found(site: Site, place: Choice, path: str) -> None:
    answer = place(site).ask(path)
    assert (answer.status in {400, 404}, SECRET in answer.body) == (True, False)
    if answer.status == 404:
        assert problem(answer.body)["status"] == 404


@each_nginx
def test_other_spellings_of_an_image_path_are_not_found(site: Site, place: Choice) -> None:
    assert place(site).ask(site.path.replace("/processed", "//processed")).status == 404


def test_post_to_a_file_is_a_problem(site: Site) -> None:
    answer = site.serving.ask(site.path, "POST")
    assert (answer.status, problem(answer.body)["status"]) == (405, 405)


@pytest.mark.parametrize(
    ("megabytes", "by_nginx"), [(10.5, False), (12, True)], ids=["service", "nginx"]
)
def test_too_large_upload_is_a_problem_from_service_and_nginx(
    site: Site, megabytes: float, by_nginx: bool
) -> None:
    answer = site.passing.upload(b"x" * int(megabytes * MEGABYTE))
    refusal = problem(answer.body)
    assert (answer.status, refusal["code"], answer.headers["content-type"]) == (
        413,
        "file_too_large",
        "application/problem+json",
    )
    assert (f'"{refusal["detail"]}"' in NGINX_CONF) is by_nginx
    assert refusal["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_batch_may_be_larger_than_an_upload(site: Site) -> None:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    more = (part + b"x" * MEGABYTE + b"\r\n") * 12
    path, body = "/api/v1/images/batch", more + form_body(b"x")
    answer = site.passing.ask(path, "POST", body, upload_headers())
    assert (answer.status, json.loads(answer.body)["refused"]) == (207, 13)


def test_upload_without_token_is_refused_before_its_body_is_sent(site: Site) -> None:
    with site.passing.connect() as connection:
        start_upload(connection, {"Content-Length": str(9 * MEGABYTE)}, b"x")
        assert connection.getresponse().status == 401


def test_client_with_a_slow_header_is_disconnected(site: Site) -> None:
    with site.passing.connect() as connection:
        connection.connect()
        connection.send(b"GET / HTTP/1.1\r\nHost: a")
        assert_disconnected_soon(connection)


def test_client_that_stalls_in_its_body_is_disconnected_and_leaves_nothing(site: Site) -> None:
    with site.passing.connect() as connection:
        start_upload(
            connection,
            {**upload_headers(), "Content-Length": str(MEGABYTE)},
            form_start() + b"x" * 1000,
        )
        assert_disconnected_soon(connection)
    assert list((site.data / "incoming").iterdir()) == []


def start_upload(connection: HTTPConnection, headers: dict[str, str], beginning: bytes) -> None:
    connection.putrequest("POST", UPLOAD)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(beginning)


def assert_disconnected_soon(connection: HTTPConnection) -> None:
    started = time.monotonic()
    while connection.sock.recv(4096):
        pass
    assert 0.5 < time.monotonic() - started < 5


def test_http_redirects_to_https(site: Site, tmp_path: Path) -> None:
    with run_nginx(tmp_path / "nginx", site.service.port, tmp_path) as nginx:
        answer = Place(nginx.http_port).ask("/docs?a=b")
    assert (answer.status, answer.headers["location"]) == (301, "https://img.example.com/docs?a=b")


def test_unavailable_service_is_a_problem_with_retry_after(tmp_path: Path) -> None:
    with run_nginx(tmp_path / "nginx", find_free_port(), tmp_path) as nginx:
        answer = secure(nginx).ask("/api/v1/health")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert problem(answer.body)["code"] == "service_unavailable"


def test_private_image_needs_a_token(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        run_service(data, PUBLIC_READS="false") as service,
        run_nginx(tmp_path / "nginx", service.port, data / "storage") as nginx,
    ):
        assert secure(nginx).ask(image_path(UNKNOWN)).status == 401


def test_service_under_a_path_keeps_it_in_every_address(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        run_service(data, "--root-path", "/images") as service,
        run_nginx(tmp_path / "nginx", service.port, data / "storage", UNDER_A_PATH) as nginx,
    ):
        place = secure(nginx)
        image = encode(photo(320, 240), "JPEG")
        accepted = place.ask(f"/images{UPLOAD}", "POST", form_body(image), upload_headers())
        assert accepted.status == 202, accepted
        ids = json.loads(accepted.body)
        assert ids["status_url"] == f"/images/api/v1/images/jobs/{ids['job_id']}"
        wait_for(lambda: place.ask(f"{ids['status_url']}/result").status == 200)
        result = json.loads(place.ask(f"{ids['status_url']}/result").body)
        one_size = json.loads(place.ask(f"/images/api/v1/images/{ids['image_id']}").body)
        assert one_size["url"] == result["urls"]["medium"]
        assert {place.ask(url).status for url in result["urls"].values()} == {200}
        document = json.loads(place.ask("/images/openapi.json").body)
        assert document["servers"] == [{"url": "/images"}]
        docs = place.ask("/images/docs")
        assert "script-src 'self'" in docs.headers["content-security-policy"]
        linked = re.findall(r"""(?:src=|href=|url: )["'](.*?)["']""", docs.body.decode())
        assert len(linked) >= 4
        assert {place.ask(path).status for path in linked} == {200}


def test_nginx_closes_idle_connections_before_the_service() -> None:
    (seconds,) = re.findall(r"^ +keepalive_timeout (\d+)s;", NGINX_CONF, re.MULTILINE)
    assert int(seconds) <= Settings().keep_alive_seconds - 10


def test_nginx_waits_longer_than_an_upload_may_take() -> None:
    (seconds,) = re.findall(r"^proxy_read_timeout (\d+)s;", PROXY_CONF, re.MULTILINE)
    longest_seconds = WAIT_SECONDS + s3_access(Settings()).timeout_seconds * ATTEMPTS
    longest_seconds += MAX_WAIT_SECONDS
    assert int(seconds) >= longest_seconds + 5


def test_nginx_passes_on_an_event_as_it_happens(site: Site) -> None:
    (seconds,) = re.findall(r"^proxy_read_timeout (\d+)s;", PROXY_CONF, re.MULTILINE)
    assert int(seconds) > PING_SECONDS
    headers = {"Accept": "text/event-stream", **authorization()}
    with site.passing.connect() as connection:
        connection.request("GET", "/api/v1/events", headers=headers)
        stream = connection.getresponse()
        site.passing.make_image()
        lines = [stream.readline() for _ in range(8)]
    kinds = [line for line in lines if line.startswith(b"event: ")]
    assert kinds == [b"event: image.accepted\n", b"event: image.completed\n"]
    answer = site.passing.ask(
        f"{UPLOAD}?wait=20", "POST", form_body(encode(photo(320, 240), "JPEG")), upload_headers()
    )
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "completed")


def test_no_upload_is_lost_around_the_end_of_an_idle_connection(tmp_path: Path) -> None:
    shorter = {"keepalive_timeout 60s": "keepalive_timeout 500ms"}
    with (
        run_service(
            tmp_path / "data", WORKER_CONCURRENCY="0", KEEP_ALIVE_SECONDS="1", **NO_LIMIT
        ) as service,
        run_slow_line(service.port, 0.05) as port,  # an upload may meet a closing in the line
        run_balancer(tmp_path / "nginx", [port], shorter) as place,
    ):
        answers = upload_in_rounds(place, [0.45, 0.95], 8)
    assert count_statuses(answers) == {202: 24}


def test_no_upload_is_lost_while_two_apis_restart_in_turn(tmp_path: Path) -> None:
    with (
        run_apis(tmp_path, 2, WORKER_CONCURRENCY="0") as apis,
        run_balancer(tmp_path / "nginx", [api.port for api in apis]) as place,
        steady_uploads(place, 20) as answers,
    ):
        for api in apis:
            restart(api)
    assert set(count_statuses(answers)) == {202}


def problem(body: bytes) -> dict[str, object]:
    fields: dict[str, object] = json.loads(body)
    assert set(fields) == {"type", "title", "status", "detail", "code", "request_id"}
    return fields
