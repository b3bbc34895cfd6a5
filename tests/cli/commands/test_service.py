from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
import typer

from imageprocessor.cli.commands.service import parse_lifetime, parse_root_path
from imageprocessor.environment import load_settings
from imageprocessor.queue.service import open_service
from imageprocessor.settings import Settings
from imageprocessor.tokens import check_token, load_keys
from tests.cli.conftest import Ran, Run

KEY = "k" * 40


@pytest.mark.parametrize(
    ("text", "lifetime"),
    [("30m", timedelta(minutes=30)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))],
)
def test_lifetimes_are_parsed(text: str, lifetime: timedelta) -> None:
    assert parse_lifetime(text) == lifetime


@pytest.mark.parametrize("text", ["", "7", "h", "0h", "-1h", "1.5h", "1w", "1h30m", "999999999d"])
def test_invalid_lifetimes_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 30m, 24h or 7d"):
        parse_lifetime(text)


@pytest.mark.parametrize(
    ("text", "path"), [("/", ""), ("/images", "/images"), ("/a/b-1.0_~/", "/a/b-1.0_~"), ("", "")]
)
def test_root_paths_have_no_slash_at_the_end(text: str, path: str) -> None:
    assert parse_root_path(text) == path


@pytest.mark.parametrize(
    "text", ["images", "//", "/a//b", "/a?b", "/a#b", "/a b", "/ä", "/%20", "https://example.com/a"]
)
def test_invalid_root_path_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as /images"):
        parse_root_path(text)


@pytest.fixture
def key() -> None:
    """The key that `serve` creates in the current folder."""
    load_keys(load_settings({}))


def check(ran: Ran) -> tuple[str | None, bool]:
    """Return the user that the printed token identifies, and whether that is an admin."""
    settings = load_settings({})
    caller = check_token(ran.out.strip(), load_keys(settings), settings)
    return caller.user_id, caller.admin


def test_token_is_valid_and_the_only_output(run: Run, key: None) -> None:
    ran = run("token", "--sub", "me")
    assert ran.status == 0
    assert ran.out.count("\n") == 1
    assert check(ran) == ("me", False)
    assert "exp" not in jwt.decode(ran.out.strip(), options={"verify_signature": False})


def test_token_of_an_admin_that_expires(run: Run, key: None) -> None:
    ran = run("token", "--sub", "op", "--admin", "--expires", "2h")
    assert check(ran) == ("op", True)
    expires = datetime.fromtimestamp(
        jwt.decode(ran.out.strip(), options={"verify_signature": False})["exp"], UTC
    )
    assert timedelta(minutes=119) < expires - datetime.now(UTC) <= timedelta(hours=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sub", ""],
        ["--sub", "x" * 300],
        ["--sub", "a\x1bb"],
        [],
        ["--sub", "a", "--expires", "1w"],
    ],
)
def test_invalid_token_arguments_are_wrong_usage(run: Run, key: None, arguments: list[str]) -> None:
    ran = run("token", *arguments)
    assert (ran.status, ran.out) == (2, "")


def test_token_without_expiry_is_refused_if_one_is_required(
    run: Run, key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_REQUIRE_EXP", "true")
    assert run("token", "--sub", "me").status == 2
    assert run("token", "--sub", "me", "--expires", "1h").status == 0


def test_config_shows_value_origin_and_meaning_of_every_setting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("MAX_RETRIES=7\n")
    monkeypatch.setenv("JWT_SECRET_KEY", KEY)
    monkeypatch.setenv("IMAGE_SIZES", '{"card": 400}')
    ran = run("config", "--json")
    rows = {row["name"]: row for row in ran.json}
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert (rows["MAX_RETRIES"]["value"], rows["MAX_RETRIES"]["origin"]) == ("7", ".env")
    assert (rows["PUBLIC_READS"]["value"], rows["PUBLIC_READS"]["origin"]) == ("true", "default")
    assert rows["IMAGE_SIZES"]["value"] == '{"card": {"width": 400}}'
    assert (rows["JWT_SECRET_KEY"]["value"], rows["JWT_SECRET_KEY"]["origin"]) == (
        "(hidden)",
        "environment",
    )
    assert all(row["meaning"] and row["accepted"] for row in ran.json)
    assert KEY not in ran.out + run("config").out


def test_config_and_start_warn_of_a_misspelt_name_in_env_file(run: Run) -> None:
    Path(".env").write_text("WEBP_QUALTY=70\nWORKER_CONCURRENCY=0\n")
    warning = "warning: WEBP_QUALTY in .env is not a setting. Did you mean WEBP_QUALITY?\n"
    assert run("config").err.startswith(warning)
    assert run("worker").err.startswith(warning)


def test_config_shows_secrets_only_if_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text(f"{KEY}\n")
    monkeypatch.setenv("JWT_PREVIOUS_SECRET_KEYS_FILE", "key")
    rows = {row["name"]: row for row in run("config", "--json", "--show-secrets").json}
    assert rows["JWT_PREVIOUS_SECRET_KEYS"]["value"] == KEY


def test_config_output_is_accepted_as_settings(run: Run) -> None:
    environ = {
        row["name"]: row["value"]
        for row in run("config", "--json").json
        if row["value"] != "(hidden)"
    }
    assert load_settings(environ) == load_settings({})


def test_sweep_counts_what_it_finds(run: Run) -> None:
    with open_service(load_settings({})):
        pass  # the service has run here
    assert run("sweep").status == 0
    Path("data/workers").mkdir(exist_ok=True)
    Path("data/workers/dead.lock").write_text("2")
    found = run("sweep", "--dry-run", "--json").json
    assert (found["dry_run"], found["found"]["dead_supervisors"], found["oldest_open_seconds"]) == (
        True,
        1,
        None,
    )
    for count in (1, 0):
        assert re.search(f"dead supervisors +{count}", run("sweep").out)


def test_worker_without_processes_is_a_wrong_setting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "0")
    ran = run("worker")
    assert ran.status == 2
    assert "WORKER_CONCURRENCY=0" in ran.err


@pytest.mark.parametrize(
    ("arguments", "name"), [([], "worker-{pid}"), (["--name", "night"], "night")]
)
def test_celery_worker_has_a_name_of_its_own_on_its_host(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], name: str
) -> None:
    started: list[str] = []

    def become(_program: str, command: list[str]) -> None:
        started.extend(command)
        raise SystemExit

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setenv("QUEUE_BACKEND", "celery")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    run("worker", *arguments)
    assert f"--hostname={name.format(pid=os.getpid())}@%h" in started


def test_reload_works_only_with_one_process(run: Run) -> None:
    assert run("serve", "--reload", "--api-processes", "2").status == 2
