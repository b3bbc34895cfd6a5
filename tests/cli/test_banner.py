from __future__ import annotations

import socket
from pathlib import Path

import pytest

from imageprocessor.cli.banner import describe_service, reachable_url, try_lines
from imageprocessor.cli.serving import listen
from imageprocessor.environment import load_settings
from imageprocessor.settings import Settings

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")],
)
def test_url_reaches_the_listener_from_this_machine(host: str, shown: str) -> None:
    with listen(host, 0) as listener:
        assert reachable_url(listener) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_url_of_ipv6_has_brackets(host: str) -> None:
    with listen(host, 0) as listener:
        assert reachable_url(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_trial_commands_with_default_settings() -> None:
    token, upload = try_lines(Settings(), URL, {})
    assert token == "TOKEN=$(imageprocessor token --sub me)"
    form = "-F file=@photo.jpg -F bucket=photos"
    url = "'http://127.0.0.1:8000/api/v1/images/upload?wait=10'"
    assert upload == f'curl -H "Authorization: Bearer $TOKEN" {form} {url}'


def test_trial_commands_use_data_dir_and_bucket(tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path / "my data"), "ALLOWED_BUCKETS": "avatars,covers"}
    token, upload = try_lines(load_settings(environ), URL, environ)
    assert token == f"TOKEN=$(DATA_DIR='{tmp_path}/my data' imageprocessor token --sub me)"
    assert "-F bucket=avatars " in upload


def test_banner_shows_data_locations_and_workers(tmp_path: Path) -> None:
    environ = {"STORAGE_PATH": str(tmp_path / "images"), "WORKER_CONCURRENCY": "0"}
    with listen("127.0.0.1", 0) as listener:
        banner = describe_service(load_settings(environ), listener, environ)
        assert f"API docs    {reachable_url(listener)}/docs" in banner
        under_a_path = describe_service(load_settings(environ), listener, environ, "/images")
    assert "API docs    /images/docs, through the proxy" in under_a_path
    assert f"data        {Path('data').resolve()}" in banner
    assert f"images      {tmp_path / 'images'}" in banner
    assert "database" not in banner
    assert "none (WORKER_CONCURRENCY=0): also run 'imageprocessor worker'" in banner


def test_banner_says_where_the_admin_pages_are_and_how_to_log_in(tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path), "ADMIN_UI": "true"}
    with listen("127.0.0.1", 0) as listener:
        banner = describe_service(load_settings(environ), listener, environ)
        under_a_path = describe_service(load_settings(environ), listener, environ, "/images")
        off = describe_service(load_settings({}), listener, {})
        assert f"Admin pages: {reachable_url(listener)}/admin\n" in banner
    command = f"DATA_DIR={tmp_path} imageprocessor token --sub me --admin --expires 12h"
    assert command in banner
    assert "Admin pages: /images/admin\n" in under_a_path
    assert "Admin pages" not in off
