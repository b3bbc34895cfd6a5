from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import structlog
from dotenv import dotenv_values
from pydantic import SecretStr

import imageprocessor as ip
from imageprocessor.core.variants import DEFAULT_VARIANTS, VariantSpec
from imageprocessor.environment import find_misspelt_names, find_origins, load_settings
from imageprocessor.errors import SettingsError
from imageprocessor.settings import Settings, accepted_form

KEY = "k" * 32
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
NO_FILE = Path("does-not-exist")


def load(**environ: str) -> Settings:
    return load_settings(environ, NO_FILE)


def test_defaults_are_the_documented_ones() -> None:
    settings = load()
    assert settings.image_sizes == DEFAULT_VARIANTS
    assert settings.database_path == Path("data/processor.db")
    assert settings.storage_path == Path("data/storage")
    assert settings.limits.max_bytes == 10 * 1024 * 1024
    assert settings.limits.max_pixels == 50_000_000
    assert settings.public_reads
    assert settings.keep_alive_seconds == 75, "more than the 60 s of nginx and AWS load balancers"


def test_paths_in_data_dir_move_with_it() -> None:
    settings = load(DATA_DIR="/srv/images", STORAGE_PATH="/mnt/images")
    assert settings.database_path == Path("/srv/images/processor.db")
    assert settings.storage_path == Path("/mnt/images")


def test_settings_of_the_specification_are_accepted() -> None:
    settings = load(
        SERVICE_NAME="image-processor",
        VERSION="1.0.0",
        STORAGE_BACKEND="local",
        JWT_ALGORITHM="HS256",
        MAX_UPLOAD_SIZE_MB="20",
        ALLOWED_MIME_TYPES='["image/jpeg","image/png","image/webp"]',
        WEBP_QUALITY="70",
        IMAGE_SIZES='{"thumbnail":150,"medium":600,"large":1200,"original":4096}',
        REDIS_URL="redis://redis:6379/0",
    )
    assert {spec.quality for spec in settings.image_sizes} == {70}
    assert settings.limits.mime_types == {"image/jpeg", "image/png", "image/webp"}


def test_size_may_be_an_object() -> None:
    card = {"width": 400, "height": 300, "fit": "cover", "quality": 60, "effort": 6}
    settings = load(IMAGE_SIZES=json.dumps({"card": card}))
    assert settings.image_sizes == (VariantSpec("card", 400, 300, "cover", quality=60, effort=6),)


def test_size_may_have_any_operation(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(b"not opened yet")
    text = "w_400,ar_1:1,fit_cover,g_auto,sat_20,wm_logo:se:80:25,r_max,q_60"
    size = ip.Transformation.parse(text).list_changes()
    settings = load(IMAGE_SIZES=json.dumps({"card": size}), WATERMARKS_DIR=str(tmp_path))
    assert str(settings.image_sizes[0]) == text
    assert settings.watermarks == {"logo": tmp_path / "logo.png"}


def test_watermarks_are_the_images_of_a_folder_with_a_usable_name(tmp_path: Path) -> None:
    for name in ("a-1.png", "b.webp", "Logo.png", "c d.png", "e.txt", "f.jpg"):
        (tmp_path / name).touch()
    assert list(load(WATERMARKS_DIR=str(tmp_path)).watermarks) == ["a-1", "b", "f"]
    assert load().watermarks == {}
    sizes = '{"card": {"width": 4, "watermark": "x:se:80:25"}}'
    with pytest.raises(SettingsError, match="WATERMARKS_DIR has a-1, b, f, but not 'x'"):
        load(WATERMARKS_DIR=str(tmp_path), IMAGE_SIZES=sizes)
    with pytest.raises(SettingsError, match="WATERMARKS_DIR has no image, but not 'x'"):
        load(IMAGE_SIZES=sizes)
    with pytest.raises(SettingsError, match=r"WATERMARKS_DIR=.*not a folder"):
        load(WATERMARKS_DIR=str(tmp_path / "missing"))


@pytest.mark.parametrize("text", ["a,b", '["a1","b1"]', " a1 , b1 "])
def test_list_is_json_or_separated_by_commas(text: str) -> None:
    assert load(CORS_ORIGINS=text.replace("a", "https://a").replace("b", "http://b")).cors_origins


def test_all_faults_are_reported_with_variable_value_and_accepted_form() -> None:
    wrong = {
        "MAX_UPLOAD_SIZE_MB": "ten",
        "WEBP_QUALITY": "101",
        "LOG_FORMAT": "xml",
        "ALLOWED_MIME_TYPES": "image/gif",
        "ALLOWED_BUCKETS": '["ok", "Not Ok"',
        "IMAGE_SIZES": '{"../x": 10}',
        "CORS_ORIGINS": "*",
        "PUBLIC_BASE_URL": "cdn.example.com",
        "STORAGE_BACKEND": "floppy",
        "JWT_REQUIRE_EXP": "perhaps",
    }
    with pytest.raises(SettingsError) as caught:
        load(**wrong)
    message = str(caught.value)
    assert message.startswith(f"{len(wrong)} setting(s) are wrong")
    for name, value in wrong.items():
        line = next(line for line in message.splitlines() if line.startswith(f"  {name}="))
        assert repr(value) in line
        assert line.endswith("Accepted: " + accepted_form(name.lower()).replace("`", ""))


@pytest.mark.parametrize(
    "url",
    ["example.com", "ftp://a", "https://", "https://*.a", "https://a/b?c", "https://a/b c", "//a"],
)
def test_base_url_without_scheme_or_with_a_query_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="PUBLIC_BASE_URL"):
        load(PUBLIC_BASE_URL=url)


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ("[]", "not a JSON object"),
        ("{}", "at least one size"),
        ('{"card": {"widht": 4}}', "unknown option"),
        ('{"card": "wide"}', "card"),
        ('{"card": null}', "card"),
        ('{"card": {"width": true}}', "card"),
        ('{"card": {"width": 1e9}}', "card"),
        ('{"card": {"width": 9, "blur": -1}}', "Size 'card': blur is -1. Use a number from 0"),
    ],
)
def test_wrong_size_is_reported(sizes: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load(IMAGE_SIZES=sizes)


@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "JWT_PREVIOUS_SECRET_KEYS"])
@pytest.mark.parametrize(
    "key", ["CHANGE_THIS_IN_PRODUCTION", "dev-secret-change-in-production", "s3cr3t-but-short"]
)
def test_published_or_short_key_is_refused_but_not_shown(name: str, key: str) -> None:
    with pytest.raises(SettingsError, match=r"secrets\.token_hex") as caught:
        load(**{name: key})
    assert key not in str(caught.value)


@pytest.mark.parametrize(("algorithm", "min_bytes"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_key_must_be_as_long_as_the_hash_of_its_algorithm(algorithm: str, min_bytes: int) -> None:
    assert load(JWT_ALGORITHM=algorithm, JWT_SECRET_KEY="k" * min_bytes).jwt_secret_key
    with pytest.raises(SettingsError, match=f"{min_bytes - 1} bytes are too short"):
        load(JWT_ALGORITHM=algorithm, JWT_SECRET_KEY="k" * (min_bytes - 1))


def test_webhook_url_needs_a_secret_and_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match=r"WEBHOOK_SECRET=\(unset\): required.*openssl rand"):
        load(WEBHOOK_URL="http://10.0.0.7/hooks?key=7")
    both = load(WEBHOOK_URL="http://10.0.0.7/hooks?key=7", WEBHOOK_SECRET=WEBHOOK_SECRET)
    assert both.webhook_url
    assert load(WEBHOOK_SECRET=WEBHOOK_SECRET).webhook_url is None


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "a.example/x", "https://me:pw@a.example/", "https://a.example/#x"]
)
def test_unusable_webhook_url_is_refused_but_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(WEBHOOK_URL=url, WEBHOOK_SECRET=WEBHOOK_SECRET)
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        (WEBHOOK_SECRET.removeprefix("whsec_"), "does not start with whsec_"),
        ("whsec_correct horse battery staple!", "is not base64"),
        ("whsec_" + "é" * 40, "is not base64"),
        (WEBHOOK_SECRET.rstrip("="), "is not base64"),
        ("whsec_", "has 0 bytes, not 24 to 64"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "has 23 bytes, not 24 to 64"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "has 65 bytes, not 24 to 64"),
    ],
)
def test_weak_webhook_secret_is_refused_but_not_shown(secret: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        load(WEBHOOK_URL="https://a.example/", WEBHOOK_SECRET=secret)
    assert f"={secret}" not in str(caught.value)


@pytest.mark.parametrize("token", ["short-token-15c", "with a space, but long", "é" * 20])
def test_weak_metrics_token_is_refused_but_not_shown(token: str) -> None:
    with pytest.raises(
        SettingsError, match=r"METRICS_TOKEN=\(hidden\): too short, or not"
    ) as caught:
        load(METRICS_TOKEN=token)
    assert token not in str(caught.value)


def test_processes_that_decode_have_no_signing_key() -> None:
    settings = load(
        JWT_SECRET_KEY=KEY, WEBHOOK_URL="https://a.example/", WEBHOOK_SECRET=WEBHOOK_SECRET
    )
    shown = repr(settings.without_secrets().model_dump())
    assert settings.webhook_secret
    assert "SecretStr" not in shown.replace(repr(settings.redis_url), "")


def test_processes_that_decode_count_without_knowing_the_token() -> None:
    settings = load(METRICS_TOKEN=KEY)
    without = settings.without_secrets()
    assert without.metrics_directory == settings.metrics_directory == Path("data/metrics")
    assert without.metrics_token == SecretStr("")
    assert load().without_secrets().metrics_directory is None


def test_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = load(JWT_SECRET_KEY_FILE=str(tmp_path / "key"))
    assert settings.jwt_secret_key
    assert settings.jwt_secret_key.get_secret_value() == KEY
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY_FILE"):
        load(JWT_SECRET_KEY_FILE=str(tmp_path / "none"))


def test_environment_overrides_env_file_and_origins_are_reported(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("WEBP_QUALITY=70\nMAX_RETRIES=5\nUNKNOWN=1\nLOG_LEVEL=\n")
    environ = {"WEBP_QUALITY": "60"}
    settings = load_settings(environ, env_file)
    assert (settings.webp_quality, settings.max_retries, settings.log_level) == (60, 5, "INFO")
    origins = find_origins(environ, env_file)
    assert origins["webp_quality"] == "environment"
    assert origins["max_retries"] == str(env_file)
    assert origins["log_level"] == "default"


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("WEBP_QUALTY", "WEBP_QUALITY"),
        ("webp_quality", "WEBP_QUALITY"),
        ("JWT_SECRET", "JWT_SECRET_KEY"),
        ("MAX_UPLOAD_SIZE", "MAX_UPLOAD_SIZE_MB"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
    ],
)
def test_name_in_env_file_that_resembles_a_setting_is_found(
    tmp_path: Path, name: str, setting: str
) -> None:
    (tmp_path / ".env").write_text(f"{name}=1\nWEBP_QUALITY=70\nJWT_SECRET_KEY_FILE=key\n")
    assert find_misspelt_names(tmp_path / ".env") == {name: setting}


def test_names_for_other_programs_are_not_taken_for_settings(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / ".env.example"
    names = re.findall(r"^#?([A-Z]\w+)=", example.read_text(), re.MULTILINE)
    foreign = [*names, "PATH", "HOME", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "DEBUG", "HOST"]
    (tmp_path / ".env").write_text("".join(f"{name}=1\n" for name in foreign))
    assert find_misspelt_names(tmp_path / ".env") == {}
    assert find_misspelt_names(tmp_path / "none") == {}


@pytest.mark.parametrize("read", [load_settings, find_origins])
def test_env_file_is_read_once(
    read: Callable[[Mapping[str, str], Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = []

    def count_reads(path: Path) -> dict[str, str | None]:
        reads.append(path)
        return dotenv_values(path)

    monkeypatch.setattr("imageprocessor.environment.dotenv_values", count_reads)
    read({}, tmp_path / ".env")
    assert reads == [tmp_path / ".env"]


def test_direct_address_must_be_of_postgresql() -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_DIRECT_URL=.*not the URL of a PostgreSQL"):
        load(DATABASE_DIRECT_URL="sqlite:////srv/processor.db")


def test_secrets_are_in_neither_repr_nor_json() -> None:
    settings = load(JWT_SECRET_KEY=KEY, JWT_PREVIOUS_SECRET_KEYS=KEY[::-1] + "x")
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json(exclude={"image_sizes"})
    assert settings.without_secrets().jwt_secret_key is None


def test_every_setting_has_a_meaning_and_an_accepted_form() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert accepted_form(name), name


def test_logs_are_json_lines_with_bound_context_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from imageprocessor.logs import configure_logs

    before = logging.getLogger().handlers[:]
    try:
        configure_logs("json", "INFO")
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            structlog.get_logger("here").info("happened", count=2)
            logging.getLogger("uvicorn.error").warning("from a library")
            logging.getLogger("here").debug("not shown")
    finally:
        logging.getLogger().handlers[:] = before
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["request_id"]) for line in lines] == [
        ("happened", "info", "r1"),
        ("from a library", "warning", "r1"),
    ]


def test_console_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    from imageprocessor.logs import configure_logs

    before = logging.getLogger().handlers[:]
    try:
        configure_logs("console", "INFO")
        _fail_with_secret("hidden-value")
    finally:
        logging.getLogger().handlers[:] = before
        structlog.reset_defaults()
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "hidden-value" not in err


def _fail_with_secret(secret: str) -> None:
    try:
        assert len(secret) / 0
    except ZeroDivisionError:
        structlog.get_logger("here").exception("failed")


def test_required_setting_that_is_missing_is_reported_as_unset() -> None:
    with pytest.raises(SettingsError, match=r"ALLOWED_BUCKETS=\(unset\): required"):
        load(STORAGE_BACKEND="s3")
