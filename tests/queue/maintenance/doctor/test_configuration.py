from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from imageprocessor.queue.maintenance.backup import KEY_NAME
from imageprocessor.queue.maintenance.doctor.configuration import check_keys, check_settings
from imageprocessor.queue.maintenance.doctor.finding import Verdict
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys

OK, WARNING, WRONG = Verdict
GOOD = {"jwt_require_exp": True, "allowed_buckets": "photos"}
SERVER = {"database_url": "postgresql+psycopg://me:hunter2@db/images"}


def test_settings_without_conflicts_are_ok() -> None:
    (found,) = check_settings(Settings.model_validate(GOOD), {})
    assert found.verdict is OK


@pytest.mark.parametrize(
    ("changes", "verdict", "named"),
    [
        ({"jwt_require_exp": False}, WARNING, "JWT_REQUIRE_EXP=false"),
        ({"allowed_buckets": ""}, WARNING, "ALLOWED_BUCKETS"),
        ({"public_base_url": "https://cdn", "public_reads": False}, WARNING, "PUBLIC_BASE_URL"),
        ({"queue_backend": "celery"}, WARNING, "QUEUE_BACKEND=celery with SQLite"),
        (
            SERVER | {"storage_backend": "s3", "s3_bucket": "images"},
            WRONG,
            "JWT_SECRET_KEY is unset",
        ),
        (
            SERVER | {"jwt_secret_key": secrets.token_hex(32)},
            WARNING,
            "STORAGE_BACKEND=local with PostgreSQL",
        ),
    ],
)
def test_conflicting_settings_are_reported(
    changes: dict[str, Any], verdict: Verdict, named: str
) -> None:
    (found,) = check_settings(Settings.model_validate(GOOD | changes), {})
    assert found.verdict is verdict
    assert named in found.found
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("key", ["a" * 40, "abc" * 20, "password1234" * 3])
def test_guessable_key_is_wrong_and_hidden(key: str) -> None:
    found = list(
        check_keys(
            Settings.model_validate({"jwt_secret_key": key, "jwt_previous_secret_keys": [key]})
        )
    )
    assert [finding.verdict for finding in found] == [WRONG, WRONG]
    assert key not in str(found)


@pytest.mark.parametrize(
    "key", ["9b0f6ac2d41e7385" * 2 + "58e1d3c7a94b602f" * 2, "correct horse battery staple crown"]
)
def test_random_key_is_ok(key: str) -> None:
    (found,) = check_keys(Settings.model_validate({"jwt_secret_key": key}))
    assert found.verdict is OK
    assert key not in str(found)


def test_generated_key_is_wrong_if_others_can_read_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (found,) = check_keys(settings)
    assert found.found == "it is generated at the first start"
    key = load_keys(settings).signing
    (found,) = check_keys(settings)
    assert found.verdict is OK
    (tmp_path / KEY_NAME).chmod(0o644)
    (found,) = check_keys(settings)
    assert (found.verdict, found.fix) == (WRONG, f"chmod 600 {tmp_path / KEY_NAME}")
    assert key not in str(found)
