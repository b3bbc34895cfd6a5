"""Every setting: its name, default, accepted form and meaning.

The table in the documentation is generated from this module. A field's name in capitals is its
environment variable. :func:`imageprocessor.environment.load_settings` reads the variables; nothing
else reads the environment.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import fields
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

from imageprocessor.core.formats.registry import (
    list_default_mime_types,
    list_mime_types,
    list_suffixes,
    require_installed,
)
from imageprocessor.core.limits import Limits
from imageprocessor.core.transformations.values import WATERMARK_NAME
from imageprocessor.core.variants import DEFAULT_QUALITY, DEFAULT_SIZES, VariantSpec
from imageprocessor.errors import InvalidVariantError, MissingExtraError
from imageprocessor.storage.keys import BUCKET_PATTERN, S3_BUCKET_PATTERN

BYTES_PER_MB = 1024 * 1024
MIME_TYPES = list_mime_types()
POSTGRES_SCHEME = "postgresql+psycopg://"
DATABASE_SCHEMES = (POSTGRES_SCHEME, "sqlite:///")
SECRETS = {
    "jwt_secret_key",
    "jwt_previous_secret_keys",
    "database_url",  # contains a password
    "database_direct_url",
    "redis_url",
    "aws_secret_access_key",
    "aws_session_token",
    "webhook_url",  # its path may contain a token
    "webhook_secret",
    "metrics_token",
}
MIN_TOKEN_CHARACTERS = 16
PUBLISHED_KEYS = (
    "CHANGE_THIS_IN_PRODUCTION",
    "dev-secret-change-in-production",
    "your-secure-random-key-here",
)
#: A key must be at least as long as the hash output: RFC 7518, section 3.2.
MIN_KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
KEY_COMMAND = 'python3 -c "import secrets; print(secrets.token_hex(32))"'
#: The form of a webhook's secret: Standard Webhooks 1.0.
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
WEBHOOK_SECRET_BYTES = range(24, 65)
WEBHOOK_SECRET_COMMAND = "echo whsec_$(openssl rand -base64 32)"  # noqa: S105 - not a secret


def setting(default: Any, form: str, meaning: str, **constraints: Any) -> Any:
    """Declare a setting by its *default*, accepted *form* and *meaning*.

    The default may be a function of the settings declared before it.
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
    """Return the value of the JSON text *value*; anything but text is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from None


def parse_list(value: object) -> object:
    """Return the items of ``["a","b"]`` or ``a,b``; anything but text is returned unchanged."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return parse_json(value)
    items = [item.strip() for item in value.split(",")]
    return [item for item in items if item]


def parse_sizes(value: object, info: ValidationInfo) -> tuple[VariantSpec, ...]:
    """Return the variants of ``{"name": width}`` or ``{"name": {"width": …, "fit": …}}``.

    A WebP without a quality gets WEBP_QUALITY. A watermark must be in WATERMARKS_DIR.
    """
    sizes = parse_json(value)
    if not isinstance(sizes, dict) or not sizes:
        raise ValueError("not a JSON object with at least one size")
    quality = info.data.get("webp_quality", DEFAULT_QUALITY)
    variants = [build_variant(name, size, quality) for name, size in sizes.items()]
    watermarks = list_watermarks(info.data.get("watermarks_dir"))
    for variant in variants:
        mark = variant.watermark_name
        if mark is not None and mark not in watermarks:
            known = ", ".join(watermarks) or "no image"
            raise ValueError(f"size {variant.name!r}: WATERMARKS_DIR has {known}, but not {mark!r}")
    return tuple(variants)


def build_variant(name: str, size: object, webp_quality: int) -> VariantSpec:
    """Return the variant for one entry of IMAGE_SIZES; *size* is a width in pixels or an object."""
    if not isinstance(size, int | dict):
        raise InvalidVariantError(f"Size {name!r} is {size!r:.80}. Use a width or an object.")
    options: dict[str, Any] = {"webp_quality": webp_quality}
    options |= size if isinstance(size, dict) else {"width": size}
    try:
        return VariantSpec(name, **options)
    except TypeError:
        known = [field.name for field in fields(VariantSpec) if field.name != "name"]
        raise InvalidVariantError(
            f"size {name!r} has an unknown option among {sorted(options)}; "
            f"known: {', '.join(known)}"
        ) from None


def list_watermarks(folder: Path | None) -> dict[str, Path]:
    """Return the images in *folder* by name: ``logo`` for ``logo.png``.

    Names of other characters than a-z, 0-9 and ``-`` are left out, because no size can name them.
    """
    if folder is None:
        return {}
    images = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in list_suffixes() and WATERMARK_NAME.fullmatch(path.stem):
            images[path.stem] = path
    return images


Names = Annotated[tuple[str, ...], BeforeValidator(parse_list)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(parse_list)]
Sizes = Annotated[SkipValidation[tuple[VariantSpec, ...]], BeforeValidator(parse_sizes)]


class Settings(BaseModel):
    """All settings of the service, validated together.

    Entry points create it with `load_settings`, tests directly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    service_name: str = setting(
        "image-processor", "text", "Name shown in `/docs` and the health check."
    )
    version: str = setting(
        "", "text", "Version shown in the health check; empty: the version of this package."
    )
    data_dir: Path = setting(
        Path("data"),
        "a folder",
        "Folder for the service's data: database, images, waiting uploads and a generated key.",
    )
    database_path: Path = setting(
        lambda data: data["data_dir"] / "processor.db",
        "a file",
        "File of the SQLite database; by default in DATA_DIR.",
    )
    database_url: SecretStr | None = setting(
        None,
        "`postgresql+psycopg://user:password@host/name` or `sqlite:////absolute/path`",
        "Database to use instead of DATABASE_PATH; running on several hosts needs PostgreSQL.",
    )
    database_direct_url: SecretStr | None = setting(
        None,
        "`postgresql+psycopg://user:password@host/name`",
        "PostgreSQL's own address, for `db upgrade` and backups, if DATABASE_URL leads to a pooler "
        "such as PgBouncer; unset: DATABASE_URL.",
    )
    storage_backend: Literal["local", "s3"] = setting(
        "local", "`local` or `s3`", "Where images are stored."
    )
    storage_path: Path = setting(
        lambda data: data["data_dir"] / "storage",
        "a folder",
        "Folder of `local` storage; by default in DATA_DIR.",
    )
    s3_bucket: str | None = setting(
        None,
        "an S3 bucket's name",
        "One S3 bucket for all images, with the upload's bucket as key prefix; "
        "unset: each upload's bucket is an S3 bucket.",
    )
    s3_endpoint_url: str = setting(
        "", "a URL", "URL of an S3 server other than AWS, such as MinIO or R2; empty: AWS."
    )
    s3_public_endpoint_url: str = setting(
        "",
        "a URL",
        "S3 URL for clients that download images or send files straight to S3; "
        "empty: same as S3_ENDPOINT_URL.",
    )
    s3_direct_uploads: Literal["post", "put"] = setting(
        "post",
        "`post` or `put`",
        "How browsers [send files straight to S3](browsers.md#straight-to-s3): `put` is for "
        "servers without POST Object, such as R2.",
    )
    aws_region: str | None = setting(
        None, "a region, such as `eu-west-1`", "Region of the buckets."
    )
    aws_profile: str | None = setting(
        None, "a name", "Profile in the AWS configuration files that contains the keys."
    )
    aws_access_key_id: str | None = setting(
        None,
        "a key id",
        "Access key for S3; unset: the credentials that boto3 finds, such as the machine's role.",
    )
    aws_secret_access_key: SecretStr | None = setting(
        None, "a secret key", "Secret key that belongs to AWS_ACCESS_KEY_ID."
    )
    aws_session_token: SecretStr | None = setting(
        None, "a token", "Session token, if the keys are temporary."
    )
    allowed_buckets: Names = setting(
        (),
        'names, as `a,b` or `["a","b"]`',
        "Buckets that uploads may name; empty: any valid name. "
        "Required if each upload's bucket is an S3 bucket.",
    )

    queue_backend: Literal["embedded", "celery"] = setting(
        "embedded",
        "`embedded` or `celery`",
        "What runs the jobs: worker processes of the service, or Celery.",
    )
    redis_url: SecretStr = setting(
        SecretStr("redis://localhost:6379/0"),
        "`redis://host:6379/0` or `rediss://…`",
        "Redis server that is Celery's broker.",
    )
    worker_concurrency: int = setting(
        2,
        "0 to 64",
        "Number of worker processes of `serve` or `worker`, which together use as many processors; "
        "0: `serve` only answers requests.",
        ge=0,
        le=64,
    )
    job_timeout_seconds: int = setting(
        60,
        "1 to 3600",
        "Seconds that one attempt may take before its worker is killed.",
        ge=1,
        le=3600,
    )
    job_memory_limit_mb: int = setting(
        3072,
        "512 to 65536",
        "Limit on a worker process's address space; "
        "must be more than the most demanding permitted image needs.",
        ge=512,
        le=65536,
    )
    max_retries: int = setting(
        3, "0 to 20", "Retries after the first attempt, for temporary faults.", ge=0, le=20
    )
    failed_source_hours: int = setting(
        168,
        "1 to 8760",
        "Hours that a failed job keeps its upload for `jobs retry`, unless the file itself is bad.",
        ge=1,
        le=8760,
    )

    audit_retention_days: int = setting(
        0,
        "0 to 36500",
        "Days after which the events of jobs that have ended leave the audit trail; 0: never. "
        "They are deleted in small batches, which keep up with more than ten million images a day.",
        ge=0,
        le=36_500,
    )

    jwt_algorithm: Literal["HS256", "HS384", "HS512"] = setting(
        "HS256", "`HS256`, `HS384` or `HS512`", "The only algorithm accepted in tokens."
    )
    jwt_secret_key: SecretStr | None = setting(
        None,
        "at least 32 bytes (HS384: 48, HS512: 64)",
        "Key that signs and checks tokens; unset: a key is generated and kept in DATA_DIR.",
    )
    jwt_previous_secret_keys: Secrets = setting(
        (), "keys, as `a,b`", "Older keys whose tokens are still accepted, for key rotation."
    )
    jwt_audience: str | None = setting(None, "text", "The `aud` claim that tokens must have.")
    jwt_issuer: str | None = setting(None, "text", "The `iss` claim that tokens must have.")
    jwt_require_exp: bool = setting(False, "`true` or `false`", "Refuse tokens that never expire.")
    jwt_leeway_seconds: int = setting(
        10,
        "0 to 300",
        "Seconds by which the signer's clock may differ when `exp` and `nbf` are checked.",
        ge=0,
        le=300,
    )
    public_reads: bool = setting(
        True,
        "`true` or `false`",
        "Anyone who knows an image's id may read it; `false`: only its owner and admins.",
    )
    upload_page: bool = setting(
        True, "`true` or `false`", "Serve a page on `/upload` for uploading in a browser."
    )
    admin_ui: bool = setting(
        False,
        "`true` or `false`",
        "Serve pages on `/admin` that show jobs, images and webhooks to admins.",
    )
    cors_origins: Names = setting(
        (), "origins, as `https://a,https://b`", "Sites whose pages may call the API."
    )
    public_base_url: str = setting(
        "",
        "a URL, as `https://cdn.example.com` or `https://example.com/images`",
        "Prefix of every image URL, such as a CDN's address.",
    )

    webhook_url: SecretStr | None = setting(
        None,
        "a URL, as `https://example.com/hooks`",
        "Where to send the events of all images; `http` and private addresses are permitted. "
        "`serve` stores it as the endpoint `default`; see `imageprocessor webhooks`.",
    )
    webhook_secret: SecretStr | None = setting(
        None,
        "`whsec_` and 24 to 64 bytes in base64",
        "Key that signs what is sent to WEBHOOK_URL. If it changes, the old one signs, too, "
        "for 24 hours.",
    )
    webhook_ca_file: Path | None = setting(
        None,
        "a PEM file",
        "Certificates of authorities that webhook receivers may use besides public ones.",
    )

    metrics_token: SecretStr | None = setting(
        None,
        "at least 16 characters without spaces",
        "Bearer token with which [Prometheus](metrics.md) may read `/metrics`; unset: that path "
        "does not exist.",
    )
    metrics_port: int | None = setting(
        None,
        "1 to 65535",
        "Port on which one process of each host serves `/metrics`, with METRICS_TOKEN if it is "
        "set; unset: none.",
        ge=1,
        le=65_535,
    )
    metrics_host: str = setting(
        "127.0.0.1",
        "an address of this machine",
        "Address of METRICS_PORT; 0.0.0.0 is all addresses of this machine.",
    )

    keep_alive_seconds: int = setting(
        75,
        "1 to 3600",
        "Seconds that `serve` keeps an idle connection open; "
        "must be more than a proxy in front keeps it.",
        ge=1,
        le=3600,
    )

    max_event_streams: int = setting(
        500,
        "1 to 100000",
        "Event streams that one API process keeps open, at most half of its connections; "
        "further ones get 503.",
        ge=1,
        le=100_000,
    )

    rate_limit_max_uploads: int = setting(
        50, "1 to 1000000", "Uploads that one user may make in a window.", ge=1, le=1_000_000
    )
    rate_limit_window_minutes: int = setting(
        60, "1 to 10080", "Length of the rate-limit window in minutes.", ge=1, le=10_080
    )

    max_upload_size_mb: int = setting(
        10, "1 to 1024", "Largest file accepted; 1 MB is 1 048 576 bytes.", ge=1, le=1024
    )
    batch_max_files: int = setting(
        20, "1 to 100", "Files that one batch may contain.", ge=1, le=100
    )
    batch_max_mb: int = setting(
        100,
        "1 to 10240",
        "Largest batch accepted, all files together; 1 MB is 1 048 576 bytes. "
        "A proxy in front must accept as much.",
        ge=1,
        le=10_240,
    )
    max_image_pixels: int = setting(
        50_000_000,
        "1 to 178956970",
        "Largest image accepted, in pixels (width × height).",
        ge=1,
        le=178_956_970,
    )
    max_animation_frames: int = setting(
        300,
        "1 to 3000",
        "Most frames of an animation that a size keeps; all of them together may have "
        "MAX_IMAGE_PIXELS.",
        ge=1,
        le=3000,
    )
    allowed_mime_types: Names = setting(
        list_default_mime_types(),
        f"some of `{','.join(MIME_TYPES)}`",
        "Formats accepted. HEIC needs the extra `heic`; see [formats](formats.md).",
    )

    watermarks_dir: Path | None = setting(
        None,
        "a folder",
        "Folder of the images that sizes may name as watermarks: `logo.png` is `logo`.",
    )
    webp_quality: int = setting(
        DEFAULT_QUALITY,
        "1 to 100",
        "Highest quality of WebP files if their size sets none; "
        "[a source that has less, and graphics, get another](quality.md).",
        ge=1,
        le=100,
    )
    image_sizes: Sizes = setting(
        DEFAULT_SIZES,
        '`{"name":width}` or `{"name":{"width":…,"height":…,"fit":…,"formats":["avif","webp"],…}}`',
        "Sizes made of every image; a number is the maximum width in pixels. An object may have "
        "any [operation](library.md#operations), by its Python name, and a "
        "[format or several](library.md#formats).",
    )

    log_format: Literal["console", "json"] = setting(
        "console", "`console` or `json`", "Format of log lines."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`", "Lowest level that is logged."
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
            raise ValueError("not a supported database URL")
        return value

    @field_validator("database_direct_url", mode="before")
    @classmethod
    def _check_direct_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.startswith(POSTGRES_SCHEME):
            raise ValueError("not the URL of a PostgreSQL database")
        return value

    @field_validator("webhook_url", mode="before")
    @classmethod
    def _check_webhook_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"https?://[^/?#@\s]+([/?][^#\s]*)?", value):
            raise ValueError(
                "not a URL of the form https://host/path, without a user name or a fragment"
            )
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        if value is not None:
            _check_webhook_key(value.get_secret_value())
        elif info.data.get("webhook_url") is not None:
            raise ValueError(f"required with WEBHOOK_URL; make one with: {WEBHOOK_SECRET_COMMAND}")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            token = value.get_secret_value()
            if len(token) < MIN_TOKEN_CHARACTERS or not re.fullmatch(r"[!-~]+", token):
                raise ValueError(f"too short, or not printable ASCII; make one with: {KEY_COMMAND}")
        return value

    @field_validator("redis_url", mode="before")
    @classmethod
    def _check_redis_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.startswith(("redis://", "rediss://")):
            raise ValueError("not a Redis URL")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _check_s3_bucket(cls, value: str | None) -> str | None:
        if value is not None and not S3_BUCKET_PATTERN.fullmatch(value):
            raise ValueError("not 3 to 63 lower-case letters, digits, hyphens and dots")
        return value

    @field_validator("s3_endpoint_url", "s3_public_endpoint_url", "public_base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#*@\s]+(/[^?#@\s]*)?", value):
            raise ValueError("not a URL of the form https://host or https://host/path")
        return value.rstrip("/")

    @field_validator("watermarks_dir")
    @classmethod
    def _check_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("not a folder")
        return value

    @field_validator("allowed_buckets")
    @classmethod
    def _check_buckets(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        stores_in_s3 = info.data.get("storage_backend") == "s3"
        one_for_all = info.data.get("s3_bucket")
        if stores_in_s3 and not one_for_all and not value:
            raise ValueError(
                "required with STORAGE_BACKEND=s3 unless S3_BUCKET is set; "
                "otherwise an upload could name any bucket"
            )
        refused = [name for name in value if not BUCKET_PATTERN.fullmatch(name)]
        _raise_if_any(refused, "not a bucket name")
        return value

    @field_validator("allowed_mime_types")
    @classmethod
    def _check_mime_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refused = [mime_type for mime_type in value if mime_type not in MIME_TYPES]
        _raise_if_any(refused, "not a supported type")
        try:
            require_installed(value)
        except MissingExtraError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refused = [origin for origin in value if not _is_origin(origin)]
        _raise_if_any(refused, "not an origin; * is refused because requests contain credentials")
        return value

    def without_secrets(self) -> Settings:
        """Return a copy for processes that decode untrusted files."""
        keys: dict[str, Any] = {
            "jwt_secret_key": None,
            "jwt_previous_secret_keys": (),
            "webhook_url": None,
            "webhook_secret": None,
        }
        if self.metrics_token is not None:  # these processes count, too
            keys["metrics_token"] = SecretStr("")
        return self.model_copy(update=keys)

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file, or None if DATABASE_URL names a server."""
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
            max_frames=self.max_animation_frames,
            mime_types=frozenset(self.allowed_mime_types),
        )

    @property
    def watermarks(self) -> dict[str, Path]:
        """The images in WATERMARKS_DIR by name."""
        return list_watermarks(self.watermarks_dir)

    @property
    def metrics_directory(self) -> Path | None:
        """The folder in which processes count for `/metrics`, or None if nobody reads it."""
        is_read = self.metrics_token is not None or self.metrics_port is not None
        return self.data_dir / "metrics" if is_read else None

    @property
    def rate_limit_window(self) -> timedelta:
        return timedelta(minutes=self.rate_limit_window_minutes)


def accepted_form(name: str) -> str:
    """Return a description of the values that the setting *name* accepts."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["form"]) if isinstance(extra, dict) else ""


def is_secret(name: str) -> bool:
    """Return whether the value of the setting *name* must never be shown."""
    return name in SECRETS


def _check_key(key: str, min_bytes: int) -> None:
    if "-----BEGIN" in key:
        raise ValueError(f"this is a PEM key, not a secret; make one with: {KEY_COMMAND}")
    if key in PUBLISHED_KEYS:
        raise ValueError(f"this key is published in documentation; make one with: {KEY_COMMAND}")
    size = len(key.encode())
    if size < min_bytes:
        raise ValueError(f"{size} bytes are too short for a key; make one with: {KEY_COMMAND}")


def _check_webhook_key(secret: str) -> None:
    remedy = f"make one with: {WEBHOOK_SECRET_COMMAND}"
    if not secret.startswith(WEBHOOK_SECRET_PREFIX):
        raise ValueError(f"it does not start with {WEBHOOK_SECRET_PREFIX}; {remedy}")
    try:
        size = len(base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True))
    except ValueError:
        raise ValueError(f"it is not base64 after {WEBHOOK_SECRET_PREFIX}; {remedy}") from None
    if size not in WEBHOOK_SECRET_BYTES:
        raise ValueError(f"it has {size} bytes, not 24 to 64; {remedy}")


def _raise_if_any(refused: list[str], fault: str) -> None:
    if refused:
        values = ", ".join(map(repr, refused))
        raise ValueError(f"{values}: {fault}")


def _is_origin(url: str) -> bool:
    return re.fullmatch(r"https?://[^/?#*@ ]+", url) is not None
