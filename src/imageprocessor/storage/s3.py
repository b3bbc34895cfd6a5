"""Storage in S3, at AWS or on a compatible server such as MinIO, R2 or Ceph.

Objects have a few megabytes at most, so each is stored in one request, and no multipart upload can
be left unfinished. Clients fetch images by presigned URLs; buckets need not be public.
"""

# ruff: noqa: PLC0415 - boto3 takes 0.3 s to import and is an extra
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import urlsplit

from imageprocessor.core.formats.registry import find_output
from imageprocessor.errors import (
    MissingExtraError,
    ObjectNotFoundError,
    SettingsError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from imageprocessor.storage.keys import check_key, is_key
from imageprocessor.storage.protocol import MARKER_NAME, Marker, StoredObject
from imageprocessor.storage.side_by_side import put_side_by_side

CONNECT_SECONDS = 3
ANSWER_SECONDS = 5.0
ATTEMPTS = 3
URL_SECONDS = 15 * 60
OCTETS = "application/octet-stream"
IMMUTABLE = "private, max-age=31536000, immutable"  # private: each client needs its own permission
ENCRYPTED = {"ServerSideEncryption": "AES256"}  # SSE-S3
ENCRYPTED_HEADERS = {"x-amz-server-side-encryption": "AES256"}  #: the same, over HTTP
READ_BYTES = 1024 * 1024  #: of an object that is read in pieces
AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")
# With path-style addressing, presigned URLs would go through another region.
AWS_OPTIONS = {"s3": {"addressing_style": "virtual"}}
OTHER_OPTIONS = {
    "s3": {"addressing_style": "path"},
    # R2 and others do not support the trailing checksums that AWS uses.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
_NO_SPACE = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_WRONG_REGION = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}


@dataclass(frozen=True, slots=True)
class S3Access:
    """The address of S3 and the credentials for it.

    boto3 takes what is missing here from the environment, its configuration files and the
    machine's role.

    ``timeout_seconds`` limits the wait for one answer. There are three attempts, so an operation
    may take three times as long, and 3 s more for the pauses between them.
    """

    endpoint_url: str = ""  #: empty: AWS
    public_endpoint_url: str = ""  #: for clients that fetch images; empty: ``endpoint_url``
    region: str | None = None
    profile: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    timeout_seconds: float = ANSWER_SECONDS


@dataclass(frozen=True, slots=True)
class SignedUpload:
    """A request that stores one object, and that anyone may send until it expires."""

    method: Literal["POST", "PUT"]
    url: str
    values: dict[str, str]  #: fields of the form, in front of the file; of a PUT, its headers


class OpenedObject(NamedTuple):
    """An object that is being read; ``etag`` names its bytes."""

    size_bytes: int
    etag: str
    pieces: Iterator[bytes]


class S3Storage:
    """A Storage in S3 buckets, which must exist.

    With *bucket*, the key ``avatars/1`` is stored there as ``avatars/1``. Without it, the key is
    stored in the bucket ``avatars`` as ``1``, and only the buckets in *buckets* are ever accessed.
    Either name is preceded by *prefix*. A storage without a prefix ignores objects whose names
    start with ``_``.

    Raises:
        MissingExtraError: boto3 is not installed.
        SettingsError: The endpoint is at AWS and no region is set.
        StorageUnavailableError: boto3 rejects *access*, for example a profile that does not exist.
    """

    def __init__(
        self, access: S3Access, *, bucket: str | None, buckets: Sequence[str] = (), prefix: str = ""
    ) -> None:
        self.bucket = bucket
        self.buckets = tuple(buckets)
        self.prefix = prefix
        if find_spec("boto3") is None:
            raise MissingExtraError("S3 (STORAGE_BACKEND=s3)", "s3")
        import boto3

        timeout_seconds = access.timeout_seconds
        with _translate_errors("open S3", bucket):
            session = boto3.Session(
                aws_access_key_id=access.access_key_id,
                aws_secret_access_key=access.secret_access_key,
                aws_session_token=access.session_token,
                region_name=access.region,
                profile_name=access.profile,
            )
            self.client = _open_client(session, access.endpoint_url, timeout_seconds)
            self._public_client = self.client
            if access.public_endpoint_url:
                public_url = access.public_endpoint_url
                self._public_client = _open_client(session, public_url, timeout_seconds)
        is_aws = _is_aws(self.client)
        self._encryption = ENCRYPTED if is_aws else {}
        self._encryption_headers = ENCRYPTED_HEADERS if is_aws else {}

    def at_prefix(self, prefix: str) -> S3Storage:
        """Return a storage at *prefix* in the same buckets, which shares the connections."""
        other = copy(self)
        other.prefix = prefix
        return other

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def adopt(self, key: str, path: Path) -> None:
        check_key(key)
        try:
            with path.open("rb") as file:
                self._put(key, file)
            path.unlink()
        except OSError as error:
            raise StorageUnavailableError(
                f"Cannot store a file as {key!r}: {error.strerror}."
            ) from error

    def put_all(self, objects: Mapping[str, bytes | Path], pool: Executor) -> None:
        put_side_by_side(self, objects, pool)

    def get(self, key: str) -> bytes:
        with self._locate(key, "read") as where:
            data: bytes = self.client.get_object(**where)["Body"].read()
            return data

    @contextmanager
    def open(self, key: str) -> Iterator[OpenedObject]:
        """Open the object under *key*, to read it in pieces until the end of the context.

        Raises:
            ObjectNotFoundError: Nothing is stored under *key*.
            StorageUnavailableError: S3 does not answer, also while it is read.
        """
        with self._locate(key, "read") as where:
            answer = self.client.get_object(**where)
            with closing(answer["Body"]) as body:
                pieces = body.iter_chunks(READ_BYTES)
                yield OpenedObject(answer["ContentLength"], answer["ETag"], pieces)

    def copy(self, source: str, key: str, etag: str) -> None:
        """Store the bytes that were read from *source* with *etag* under *key*, too.

        Raises:
            ObjectNotFoundError: *source* no longer exists, or has other bytes now.
        """
        with self._locate(source, "copy") as origin, self._locate(key, "store") as where:
            self.client.copy_object(
                **where, **self._encryption, CopySource=origin, CopySourceIfMatch=etag
            )

    def delete(self, key: str, *, durable: bool = True) -> None:  # noqa: ARG002 - always is
        with suppress(ObjectNotFoundError), self._locate(key, "delete") as where:
            self.client.delete_object(**where)

    def exists(self, key: str) -> bool:
        with self._locate(key, "look up") as where:
            # Not a HEAD: its answer is the same for a missing object and a missing bucket.
            bucket, name = where["Bucket"], where["Key"]
            page = self.client.list_objects_v2(Bucket=bucket, Prefix=name, MaxKeys=1)
        return any(found["Key"] == name for found in page.get("Contents", []))

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        if self.bucket is not None:
            yield from self._list_bucket(self.bucket, "", prefix, start_after)
            return
        for head in sorted(f"{bucket}/" for bucket in self.buckets):
            if not (head.startswith(prefix) or prefix.startswith(head)):
                continue
            after = ""
            if start_after.startswith(head):
                after = start_after.removeprefix(head)
            elif start_after > head:
                continue
            yield from self._list_bucket(head.removesuffix("/"), head, prefix[len(head) :], after)

    def url(self, key: str) -> str:
        with self._locate(key, "create a URL for") as where:
            parameters = where | {
                "ResponseContentType": _content_type(key),
                "ResponseContentDisposition": "inline",
            }
            url: str = self._public_client.generate_presigned_url(
                "get_object", parameters, URL_SECONDS
            )
            return url

    def sign_post(self, key: str, max_bytes: int, seconds: int) -> SignedUpload:
        """Return a form that stores 1 to *max_bytes* bytes under *key*, for *seconds*."""
        values = {"Content-Type": OCTETS, **self._encryption_headers}
        conditions: list[Any] = [{name: value} for name, value in values.items()]
        conditions.append(["content-length-range", 1, max_bytes])
        with self._locate(key, "sign an upload of") as where:
            bucket, name = where["Bucket"], where["Key"]
            form = self._public_client.generate_presigned_post(
                bucket, name, Fields=values, Conditions=conditions, ExpiresIn=seconds
            )
        return SignedUpload("POST", form["url"], form["fields"])

    def sign_put(self, key: str, size_bytes: int, seconds: int) -> SignedUpload:
        """Return a PUT that stores exactly *size_bytes* bytes under *key*, for *seconds*."""
        headers = {"Content-Type": OCTETS, **self._encryption_headers}
        with self._locate(key, "sign an upload of") as where:
            parameters: dict[str, Any] = {**where, **self._encryption, "ContentType": OCTETS}
            parameters["ContentLength"] = size_bytes
            url = self._public_client.generate_presigned_url("put_object", parameters, seconds)
        return SignedUpload("PUT", url, headers)

    def read_markers(self) -> Sequence[Marker]:
        if self.bucket is not None:
            return [self._read_marker(self.bucket, "")]
        return [self._read_marker(bucket, f"{bucket}/") for bucket in self.buckets]

    def write_marker(self, prefix: str, owner: str) -> None:
        bucket = self.bucket or prefix.removesuffix("/")
        name = self.prefix + MARKER_NAME
        with _translate_errors(f"store {name!r}", bucket):
            self.client.put_object(
                Bucket=bucket, Key=name, ContentType="text/plain", **self._encryption, Body=owner
            )

    def _read_marker(self, bucket: str, prefix: str) -> Marker:
        name = self.prefix + MARKER_NAME
        owner = None
        with suppress(ObjectNotFoundError), _translate_errors(f"read {name!r}", bucket):
            body = self.client.get_object(Bucket=bucket, Key=name)["Body"]
            owner = body.read().decode(errors="replace").strip()
        return Marker(prefix, f"s3://{bucket}/{name}", owner)

    def _put(self, key: str, body: bytes | BinaryIO) -> None:
        headers = {"ContentType": _content_type(key), "CacheControl": IMMUTABLE}
        with self._locate(key, "store") as where:
            self.client.put_object(**where, **headers, **self._encryption, Body=body)

    @contextmanager
    def _locate(self, key: str, action: str) -> Iterator[dict[str, str]]:
        """Yield an object's bucket and name; translate the errors of the caller's block."""
        check_key(key)
        bucket, name = self.bucket, key
        if bucket is None:
            bucket, _, name = key.partition("/")
            if bucket not in self.buckets or not name:
                raise StorageUnavailableError(
                    f"{key!r} is in none of the allowed S3 buckets ({', '.join(self.buckets)})."
                    f" Add {bucket!r} to ALLOWED_BUCKETS."
                )
        with _translate_errors(f"{action} {key!r}", bucket):
            yield {"Bucket": bucket, "Key": self.prefix + name}

    def _list_bucket(
        self, bucket: str, head: str, start: str, start_after: str
    ) -> Iterator[StoredObject]:
        """Yield the objects in *bucket*, whose names there begin with *start*.

        *head* precedes these names in keys, but not in *start* and *start_after*.
        """
        request = {"Bucket": bucket, "Prefix": self.prefix + start}
        if start_after:
            request["StartAfter"] = self.prefix + start_after
        while True:
            with _translate_errors("list the stored objects", bucket):
                page = self.client.list_objects_v2(**request)
            objects = page.get("Contents", [])
            for found in objects:
                key = head + found["Key"].removeprefix(self.prefix)
                if is_key(key):
                    modified_at = found["LastModified"].astimezone(UTC)
                    yield StoredObject(key, found["Size"], modified_at)
            if not page["IsTruncated"]:
                return
            last = objects[-1]["Key"].removeprefix(self.prefix)
            # S3 lists in byte order. Names that start with "_" are not ours: skip them all by
            # continuing at the backtick, the only byte between "_" and the lower-case letters.
            after = "`" if last.startswith("_") else last
            request["StartAfter"] = self.prefix + after


def _open_client(session: Any, endpoint_url: str, timeout_seconds: float) -> Any:
    from botocore.config import Config

    options = OTHER_OPTIONS if endpoint_url else AWS_OPTIONS
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=min(CONNECT_SECONDS, timeout_seconds),
        read_timeout=timeout_seconds,
        **options,
    )
    client = session.client("s3", endpoint_url=endpoint_url or None, config=config)
    if endpoint_url:
        return client
    if not _is_aws(client):  # boto3 found an endpoint in the environment or its files
        return _open_client(session, client.meta.endpoint_url, timeout_seconds)
    if session.region_name is None:
        raise SettingsError(
            "AWS_REGION is not set and boto3 finds no region. Set it to the buckets' region."
        )
    return client


def _is_aws(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(AWS_DOMAINS)


def _content_type(key: str) -> str:
    output = find_output(key)
    return output.mime_type if output else OCTETS


@contextmanager
def _translate_errors(action: str, bucket: str | None) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{action} in the S3 bucket {bucket!r}" if bucket else action
    try:
        yield
    except ClientError as error:
        raise _explain_answer(error.response, where) from error
    except BotoCoreError as error:
        explanation = _explain_fault(type(error).__name__)
        raise StorageUnavailableError(f"Cannot {where}: {explanation}.") from error


def _explain_answer(answer: Any, where: str) -> StorageError:
    """Return the error of this package for an error answer of S3."""
    code = answer["Error"]["Code"]
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    if code in _NO_SPACE or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFullError(
            f"Cannot {where}: no space is left ({code}). Make room or raise the quota."
        )
    if code == "NoSuchBucket":
        return StorageUnavailableError(
            f"Cannot {where}: there is no such bucket. Create it or correct its name."
        )
    if status == HTTPStatus.PRECONDITION_FAILED:
        return ObjectNotFoundError(f"Cannot {where}: it has been replaced since it was read.")
    if status == HTTPStatus.NOT_FOUND:
        return ObjectNotFoundError(f"Cannot {where}: there is no such object.")
    if code in _WRONG_REGION:
        advice = "The bucket is in another region. Correct AWS_REGION."
    elif status == HTTPStatus.FORBIDDEN:
        advice = "Check the credentials, their permissions, the bucket's policy and the clock."
    else:
        advice = "Check the S3 service's status."
    return StorageUnavailableError(f"Cannot {where}: S3 answers {status} ({code}). {advice}")


def _explain_fault(kind: str) -> str:
    """Return cause and remedy if S3 gave no answer; *kind* is the name of boto3's error."""
    if "Credential" in kind or "Token" in kind or "SSO" in kind:
        return (
            f"no credentials are found ({kind}). "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        )
    if kind == "ProfileNotFound":
        return "the profile in AWS_PROFILE does not exist. Correct AWS_PROFILE or create it"
    return f"S3 does not answer ({kind}). Check S3_ENDPOINT_URL, the network and S3 itself"
