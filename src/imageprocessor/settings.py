"""Every setting: its environment name, default, accepted form and meaning.

The docs' table is made from here. A field's name in capitals is its variable;
:func:`imageprocessor.environment.load_settings` reads them, and nothing else reads the environment.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SkipValidation,
    ValidationInfo,
    field_validator,
)

from imageprocessor.core.formats.registry import list_mime_types
from imageprocessor.core.limits import Limits
from imageprocessor.core.variants import DEFAULT_QUALITY, DEFAULT_SIZES, VariantSpec
from imageprocessor.errors import InvalidVariantError
from imageprocessor.storage.keys import BUCKET_PATTERN, S3_BUCKET_PATTERN

BYTES_PER_MB = 1024 * 1024
MIME_TYPES = list_mime_types()
DATABASE_SCHEMES = ("postgresql+psycopg://", "sqlite:///")
SECRETS = {
    "jwt_secret_key",
    "jwt_previous_secret_keys",
    "database_url",  # it holds a password
    "redis_url",
    "aws_secret_access_key",
    "aws_session_token",
}
PUBLISHED_KEYS = (
    "CHANGE_THIS_IN_PRODUCTION",
    "dev-secret-change-in-production",
    "your-secure-random-key-here",
)
#: The length of what the algorithms compute: RFC 7518, section 3.2.
MIN_KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
KEY_COMMAND = 'python3 -c "import secrets; print(secrets.token_hex(32))"'


def setting(default: Any, form: str, meaning: str, **constraints: Any) -> Any:
    """Declare a setting by its *default*, accepted *form* and *meaning*.

    The default may be a function of the settings before it.
    """
    source = {"default_factory": default} if callable(default) else {"default": default}
    return Field(
        **source,
        description=meaning,
        json_schema_extra={"form": form},
        validate_default=True,
        **constraints,
    )


def parse_json(value: object) -> object:
    """Return what the JSON text *value* means; anything but text passes unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from None


def parse_list(value: object) -> object:
    """Return the items of ``["a","b"]`` or ``a,b``; anything but text passes unchanged."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return parse_json(value)
    items = [item.strip() for item in value.split(",")]
    return [item for item in items if item]


def parse_sizes(value: object, info: ValidationInfo) -> tuple[VariantSpec, ...]:
    """Return the variants of ``{"name": width}`` or ``{"name": {"width": …, "fit": …}}``.

    Where a size names no quality, WEBP_QUALITY applies.
    """
    sizes = parse_json(value)
    if not isinstance(sizes, dict) or not sizes:
        raise ValueError("not a JSON object with at least one size")
    quality = info.data.get("webp_quality", DEFAULT_QUALITY)
    variants = [build_variant(name, size, quality) for name, size in sizes.items()]
    return tuple(variants)


def build_variant(name: str, size: object, quality: int) -> VariantSpec:
    """Return the variant that IMAGE_SIZES describes by *size*: a width in pixels, or an object."""
    options: dict[str, Any] = {"quality": quality}
    options |= size if isinstance(size, dict) else {"width": size}
    try:
        return VariantSpec(name, **options)
    except TypeError:
        raise InvalidVariantError(
            f"size {name!r} has an unknown option among {sorted(options)}; "
            "known: width, height, fit, quality, effort"
        ) from None


Names = Annotated[tuple[str, ...], BeforeValidator(parse_list)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(parse_list)]
Sizes = Annotated[SkipValidation[tuple[VariantSpec, ...]], BeforeValidator(parse_sizes)]


class Settings(BaseModel):
    """All settings of the service, checked together.

    Entry points build it with `load_settings`, tests directly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    service_name: str = setting(
        "image-processor", "text", "The name that `/docs` and the health check show."
    )
    version: str = setting(
        "", "text", "The version that the health check shows; empty: this package's own."
    )
    data_dir: Path = setting(
        Path("data"), "a folder", "Where the service keeps what it must remember."
    )
    database_path: Path = setting(
        lambda data: data["data_dir"] / "processor.db",
        "a file",
        "The SQLite database; default in DATA_DIR.",
    )
    database_url: SecretStr | None = setting(
        None,
        "`postgresql+psycopg://user:password@host/name` or `sqlite:////absolute/path`",
        "The database, in the place of DATABASE_PATH; several hosts need PostgreSQL.",
    )
    storage_backend: Literal["local", "s3"] = setting(
        "local", "`local` or `s3`", "Where images are stored."
    )
    storage_path: Path = setting(
        lambda data: data["data_dir"] / "storage",
        "a folder",
        "The folder of `local` storage; default in DATA_DIR.",
    )
    s3_bucket: str | None = setting(
        None,
        "an S3 bucket's name",
        "Holds every image, an upload's bucket being a prefix in it; "
        "unset: the upload's bucket is the S3 bucket.",
    )
    s3_endpoint_url: str = setting(
        "", "a URL", "Where S3 is spoken, such as MinIO or R2; empty: AWS."
    )
    s3_public_endpoint_url: str = setting(
        "", "a URL", "The same for those who fetch images; empty: as S3_ENDPOINT_URL."
    )
    aws_region: str | None = setting(
        None, "a region, such as `eu-west-1`", "Where the buckets are."
    )
    aws_profile: str | None = setting(
        None, "a name", "The profile of the AWS configuration files that holds the keys."
    )
    aws_access_key_id: str | None = setting(
        None,
        "a key id",
        "Who speaks to S3; unset: what boto3 finds, such as the role of the machine.",
    )
    aws_secret_access_key: SecretStr | None = setting(
        None, "a secret key", "Belongs to AWS_ACCESS_KEY_ID."
    )
    aws_session_token: SecretStr | None = setting(None, "a token", "Belongs to temporary keys.")
    allowed_buckets: Names = setting(
        (),
        'names, as `a,b` or `["a","b"]`',
        "The only buckets an upload may name; empty: any valid name, unless those are S3 buckets.",
    )

    queue_backend: Literal["embedded", "celery"] = setting(
        "embedded", "`embedded` or `celery`", "What runs the jobs."
    )
    redis_url: SecretStr = setting(
        SecretStr("redis://localhost:6379/0"),
        "`redis://host:6379/0` or `rediss://…`",
        "The broker of `celery`.",
    )
    worker_concurrency: int = setting(
        2,
        "0 to 64",
        "Worker processes of `serve` and `worker`, and the processors that they use together; "
        "0: `serve` only answers requests.",
        ge=0,
        le=64,
    )
    job_timeout_seconds: int = setting(
        60, "1 to 3600", "How long one attempt may run before its worker is killed.", ge=1, le=3600
    )
    job_memory_limit_mb: int = setting(
        3072,
        "512 to 65536",
        "Address space of a worker process; above what the worst permitted image needs.",
        ge=512,
        le=65536,
    )
    max_retries: int = setting(
        3, "0 to 20", "Attempts after the first one, for faults that may pass.", ge=0, le=20
    )
    failed_source_hours: int = setting(
        168,
        "1 to 8760",
        "How long the upload of a job that gave up is kept for `jobs retry`.",
        ge=1,
        le=8760,
    )

    jwt_algorithm: Literal["HS256", "HS384", "HS512"] = setting(
        "HS256", "`HS256`, `HS384` or `HS512`", "The one algorithm that is accepted."
    )
    jwt_secret_key: SecretStr | None = setting(
        None,
        "at least 32 bytes (HS384: 48, HS512: 64)",
        "Signs and checks tokens; unset: one is generated and kept in DATA_DIR.",
    )
    jwt_previous_secret_keys: Secrets = setting(
        (), "keys, as `a,b`", "Older keys that are still accepted (rotation)."
    )
    jwt_audience: str | None = setting(None, "text", "The `aud` that a token must carry.")
    jwt_issuer: str | None = setting(None, "text", "The `iss` that a token must carry.")
    jwt_require_exp: bool = setting(False, "`true` or `false`", "Refuse tokens that never expire.")
    public_reads: bool = setting(
        True, "`true` or `false`", "Who holds an id may read; `false`: only the owner or an admin."
    )
    cors_origins: Names = setting(
        (), "origins, as `https://a,https://b`", "Sites whose pages may call the API."
    )
    public_base_url: str = setting(
        "", "a URL without path", "Put before every image URL, such as a CDN's address."
    )

    rate_limit_max_uploads: int = setting(
        50, "1 to 1000000", "Uploads of one user in one window.", ge=1, le=1_000_000
    )
    rate_limit_window_minutes: int = setting(
        60, "1 to 10080", "Length of that window.", ge=1, le=10_080
    )

    max_upload_size_mb: int = setting(
        10, "1 to 1024", "Largest file, in units of 1 048 576 bytes.", ge=1, le=1024
    )
    max_image_pixels: int = setting(
        50_000_000,
        "1 to 178956970",
        "Most pixels (width × height) an image may have.",
        ge=1,
        le=178_956_970,
    )
    allowed_mime_types: Names = setting(
        MIME_TYPES, f"some of `{','.join(MIME_TYPES)}`", "Formats that are accepted."
    )

    webp_quality: int = setting(
        DEFAULT_QUALITY, "1 to 100", "WebP quality of sizes that name none.", ge=1, le=100
    )
    image_sizes: Sizes = setting(
        DEFAULT_SIZES,
        '`{"name":width}` or '
        '`{"name":{"width":…,"height":…,"fit":"inside"|"cover","quality":…,"effort":…}}`',
        "The sizes made of every image; a number bounds the width in pixels.",
    )

    log_format: Literal["console", "json"] = setting(
        "console", "`console` or `json`", "How log lines look."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`", "The least serious level that is logged."
    )

    @field_validator("jwt_secret_key", "jwt_previous_secret_keys")
    @classmethod
    def _refuse_weak_keys(
        cls, value: SecretStr | tuple[SecretStr, ...] | None, info: ValidationInfo
    ) -> Any:
        algorithm = info.data.get("jwt_algorithm", "HS256")
        keys = value if isinstance(value, tuple) else (value,)
        for key in keys:
            if key:
                _check_key(key.get_secret_value(), MIN_KEY_BYTES[algorithm])
        return value

    @field_validator("database_url", mode="before")
    @classmethod
    def _check_database_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.startswith(DATABASE_SCHEMES):
            raise ValueError("not the URL of a database that is supported")
        return value

    @field_validator("redis_url", mode="before")
    @classmethod
    def _check_redis_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.startswith(("redis://", "rediss://")):
            raise ValueError("not the URL of a Redis server")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _check_s3_bucket(cls, value: str | None) -> str | None:
        if value is not None and not S3_BUCKET_PATTERN.fullmatch(value):
            raise ValueError("not 3 to 63 lower-case letters, digits, hyphens and dots")
        return value

    @field_validator("s3_endpoint_url", "s3_public_endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", value):
            raise ValueError("not a URL of the form https://host")
        return value.rstrip("/")

    @field_validator("allowed_buckets")
    @classmethod
    def _check_buckets(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        stores_in_s3 = info.data.get("storage_backend") == "s3"
        one_for_all = info.data.get("s3_bucket")
        if stores_in_s3 and not one_for_all and not value:
            raise ValueError(
                "needed with STORAGE_BACKEND=s3 unless S3_BUCKET is set: "
                "else an upload may name any bucket"
            )
        refused = [name for name in value if not BUCKET_PATTERN.fullmatch(name)]
        _raise_if_any(refused, "not a bucket name")
        return value

    @field_validator("allowed_mime_types")
    @classmethod
    def _check_mime_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refused = [mime_type for mime_type in value if mime_type not in MIME_TYPES]
        _raise_if_any(refused, "not a supported type")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refused = [origin for origin in value if not _is_origin(origin)]
        _raise_if_any(refused, "not an origin; * is refused because requests carry credentials")
        return value

    @field_validator("public_base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        if value and not _is_origin(value.rstrip("/")):
            raise ValueError("not a URL of the form https://host")
        return value.rstrip("/")

    def without_secrets(self) -> Settings:
        """Return a copy for processes that decode what strangers sent."""
        return self.model_copy(update={"jwt_secret_key": None, "jwt_previous_secret_keys": ()})

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file, or None where DATABASE_URL names a server."""
        if self.database_url is None:
            return self.database_path
        scheme, _, path = self.database_url.get_secret_value().partition(":///")
        return Path(path) if scheme == "sqlite" else None

    @property
    def limits(self) -> Limits:
        """The limits of an upload, for :func:`imageprocessor.validate` and ``process``."""
        return Limits(
            max_bytes=self.max_upload_size_mb * BYTES_PER_MB,
            max_pixels=self.max_image_pixels,
            mime_types=frozenset(self.allowed_mime_types),
        )

    @property
    def rate_limit_window(self) -> timedelta:
        return timedelta(minutes=self.rate_limit_window_minutes)


def accepted_form(name: str) -> str:
    """Return what the setting *name* accepts, in words."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["form"]) if isinstance(extra, dict) else ""


def is_secret(name: str) -> bool:
    """Return whether the value of the setting *name* must never be shown."""
    return name in SECRETS


def _check_key(key: str, min_bytes: int) -> None:
    if "-----BEGIN" in key:
        raise ValueError(f"this is a key in PEM form, not a secret; make one with: {KEY_COMMAND}")
    if key in PUBLISHED_KEYS:
        raise ValueError(f"this key is published in documentation; make one with: {KEY_COMMAND}")
    size = len(key.encode())
    if size < min_bytes:
        raise ValueError(f"{size} bytes are too few; make a key with: {KEY_COMMAND}")


def _raise_if_any(refused: list[str], fault: str) -> None:
    if refused:
        values = ", ".join(map(repr, refused))
        raise ValueError(f"{values}: {fault}")


def _is_origin(url: str) -> bool:
    return re.fullmatch(r"https?://[^/?#*@ ]+", url) is not None
