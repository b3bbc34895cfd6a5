"""An S3 server that checks signatures, POST policies, conditions and CORS, as moto does not.

It is a proxy in front of moto's server, which stores the objects. The rules are those of AWS:
"Authenticating Requests (AWS Signature Version 4)" and "POST Policy". Signatures are computed here,
without botocore, whose signatures are tested.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET

import httpx
from python_multipart.multipart import parse_options_header

from tests.servers.faults import Fault, FaultyProxy, ProxyHandler

KEY_ID = "AKIDSTRICT"
SECRET_KEY = "a-secret-that-only-the-service-has"
UNSIGNED = "UNSIGNED-PAYLOAD"
CLOCK_TOLERANCE = timedelta(minutes=15)


class StrictS3(FaultyProxy):
    """The server; ``has_post`` and ``checks_size`` may be turned off, as some servers lack them."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port, _Handler)
        self.has_post = True  #: R2 answers 501
        self.checks_size = True  #: RustFS ignores content-length-range
        self.before_copy: list[Callable[[], object]] = []  #: called, once, in front of a copy


class RefusedError(Exception):
    """The request is not permitted."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Form:
    """The fields in front of the file, by their names in lower case, and the file."""

    fields: dict[str, str]
    file: bytes


class _Handler(ProxyHandler):
    server: StrictS3

    def do_OPTIONS(self) -> None:  # noqa: N802 - the name that http.server requires
        """Answer a preflight by the bucket's CORS rules."""
        self.close_connection = True
        self.server.heads.append(f"{self.requestline}\n{self.headers}")
        rule = self._find_rule(self.headers.get("Access-Control-Request-Method", ""))
        if rule is None:
            self._refuse_with(RefusedError(403, "AccessForbidden", "No CORS rule permits this."))
        else:
            super().answer(200, {**rule, "Content-Length": "0"}, b"")

    def pass_on(self, body: bytes, fault: Fault) -> None:
        try:
            if self.command == "POST" and not urlsplit(self.path).query:
                self._store_form(body)
            else:
                self._check_signature(body)
                self._check_copy()
                super().pass_on(body, fault)
        except RefusedError as refused:
            self._refuse_with(refused)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer with what the bucket's CORS rules say; moto permits everything."""
        sent = {name: value for name, value in headers.items() if not is_cors(name)}
        if "Origin" in self.headers:
            sent |= self._find_rule(self.command) or {}
        super().answer(status, sent, body)

    def _refuse_with(self, refused: RefusedError) -> None:
        body = f"<Error><Code>{refused.code}</Code><Message>{refused}</Message></Error>".encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        self.answer(refused.status, headers, body)

    def _store_form(self, body: bytes) -> None:
        if not self.server.has_post:
            raise RefusedError(501, "NotImplemented", "POST Object is not implemented.")
        bucket = urlsplit(self.path).path.strip("/")
        form = parse_form(self.headers["Content-Type"], body)
        check_policy(form, bucket, checks_size=self.server.checks_size)
        path = f"/{bucket}/{quote(form.fields['key'])}"
        sent = {"Content-Type": form.fields.get("content-type", "binary/octet-stream")}
        answer, text = self._ask("PUT", path, form.file, sent)
        self.answer(204 if answer.status == 200 else answer.status, {}, text)

    def _check_signature(self, body: bytes) -> None:
        address = urlsplit(self.path)
        query = parse_qsl(address.query, keep_blank_values=True)
        given = dict(query)
        now = datetime.now(UTC)
        if "X-Amz-Signature" in given:
            scope, signature = given["X-Amz-Credential"], given["X-Amz-Signature"]
            names, moment = given["X-Amz-SignedHeaders"], given["X-Amz-Date"]
            query = [(name, value) for name, value in query if name != "X-Amz-Signature"]
            payload = UNSIGNED
            if parse_time(moment) + timedelta(seconds=int(given["X-Amz-Expires"])) < now:
                raise RefusedError(403, "AccessDenied", "Request has expired")
        else:
            sent = self.headers.get("Authorization", "")
            found = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=(\S+), SignedHeaders=(\S+), Signature=(\w+)", sent
            )
            if found is None:
                raise RefusedError(403, "AccessDenied", "Access Denied")
            scope, names, signature = found.groups()
            moment, payload = self.headers["X-Amz-Date"], self.headers["X-Amz-Content-SHA256"]
            if payload not in (UNSIGNED, hashlib.sha256(body).hexdigest()):
                raise RefusedError(400, "XAmzContentSHA256Mismatch", "The body has another hash.")
        if abs(parse_time(moment) - now) > CLOCK_TOLERANCE and "X-Amz-Date" not in given:
            raise RefusedError(403, "RequestTimeTooSkewed", "The clocks differ too much.")
        signed = names.split(";")
        unsigned = [name for name in self.headers if name.lower() not in signed]
        if "host" not in signed or any(name.lower().startswith("x-amz-") for name in unsigned):
            raise RefusedError(403, "AccessDenied", "There were headers which were not signed.")
        request = "\n".join(
            [
                self.command,
                address.path,
                "&".join(sorted(f"{encode(name)}={encode(value)}" for name, value in query)),
                *(f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in signed),
                "",
                names,
                payload,
            ]
        )
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope.partition('/')[2]}\n{hashed}"
        check_scope(scope, moment)
        require_equal(sign(scope, text), signature)

    def _check_copy(self) -> None:
        """Check the condition of a copy, which moto ignores."""
        etag = self.headers.get("X-Amz-Copy-Source-If-Match")
        if etag is not None:
            while self.server.before_copy:
                self.server.before_copy.pop()()
            answer, _ = self._ask("HEAD", f"/{self.headers['X-Amz-Copy-Source'].lstrip('/')}")
            if answer.status == 200 and answer.headers["ETag"] != etag:
                raise RefusedError(
                    412, "PreconditionFailed", "At least one condition did not hold."
                )

    def _find_rule(self, method: str) -> dict[str, str] | None:
        """Return the headers of the first CORS rule of the bucket that permits the request."""
        bucket = unquote(urlsplit(self.path).path).strip("/").partition("/")[0]
        answer, text = self._ask("GET", f"/{bucket}?cors")
        if answer.status != 200:
            return None
        origin = self.headers.get("Origin", "")
        asked = self.headers.get("Access-Control-Request-Headers", "")
        names = {name.strip().lower() for name in asked.split(",") if name.strip()}
        for rule in list_rules(text):
            if not any(matches(pattern, origin) for pattern in rule["AllowedOrigin"]):
                continue
            allowed = [pattern.lower() for pattern in rule.get("AllowedHeader", [])]
            has_headers = all(any(matches(pattern, name) for pattern in allowed) for name in names)
            if method in rule["AllowedMethod"] and has_headers:
                return {
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Allow-Methods": ", ".join(rule["AllowedMethod"]),
                    "Access-Control-Allow-Headers": asked,
                }
        return None

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """Send a request of our own to moto."""
        upstream = HTTPConnection("127.0.0.1", self.server.upstream_port)
        authorization = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request"
        upstream.request(
            method, path, body or None, {"Authorization": authorization, **(headers or {})}
        )
        response = upstream.getresponse()
        text = response.read()
        upstream.close()
        return response, text


def is_cors(name: str) -> bool:
    return name.lower().startswith("access-control-")


def parse_form(content_type: str, body: bytes) -> Form:
    """Return the form; what follows the file is ignored, as by S3."""
    _, options = parse_options_header(content_type)
    fields: dict[str, str] = {}
    for part in body.split(b"--" + options[b"boundary"])[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        assert name is not None
        if name[1] == b"file":
            return Form(fields, content.removesuffix(b"\r\n"))
        fields[name[1].decode().lower()] = content.removesuffix(b"\r\n").decode()
    raise RefusedError(400, "InvalidArgument", "POST requires exactly one file upload per request.")


def check_policy(form: Form, bucket: str, *, checks_size: bool) -> None:
    """Raise RefusedError if the policy of the form does not permit it, or is not signed."""
    fields = form.fields
    if "policy" not in fields:
        raise RefusedError(403, "AccessDenied", "Access Denied")
    scope = fields["x-amz-credential"]
    check_scope(scope, fields["x-amz-date"])
    require_equal(sign(scope, fields["policy"]), fields["x-amz-signature"])
    policy = json.loads(base64.b64decode(fields["policy"]))
    if datetime.fromisoformat(policy["expiration"]) < datetime.now(UTC):
        raise RefusedError(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    permitted = {"policy", "x-amz-signature"}
    for condition in policy["conditions"]:
        kind, name, value = as_triple(condition)
        if kind == "content-length-range":
            if checks_size:
                check_range(len(form.file), name, value)
            continue
        permitted.add(name)
        sent = values.get(name, "")
        if not (sent == value if kind == "eq" else sent.startswith(value)):
            raise RefusedError(403, "AccessDenied", f"Policy Condition failed: {condition}")
    extra = [name for name in fields if name not in permitted and not name.startswith("x-ignore-")]
    if extra:
        raise RefusedError(403, "AccessDenied", f"Extra input fields: {', '.join(extra)}")


def as_triple(condition: Any) -> tuple[str, Any, Any]:
    if isinstance(condition, dict):
        ((name, value),) = condition.items()
        return "eq", name.lower(), value
    kind, name, value = condition
    if kind == "content-length-range":
        return kind, name, value
    assert kind in ("eq", "starts-with")
    return kind, name.removeprefix("$").lower(), value


def check_range(size_bytes: int, smallest: int, largest: int) -> None:
    if size_bytes < smallest:
        raise RefusedError(400, "EntityTooSmall", "The file is smaller than the policy permits.")
    if size_bytes > largest:
        raise RefusedError(400, "EntityTooLarge", "The file is larger than the policy permits.")


def check_scope(scope: str, moment: str) -> None:
    key_id, day, _, service, end = scope.split("/")
    if key_id != KEY_ID:
        raise RefusedError(403, "InvalidAccessKeyId", "The access key does not exist.")
    if (day, service, end) != (moment[:8], "s3", "aws4_request"):
        raise RefusedError(400, "AuthorizationHeaderMalformed", "The scope is wrong.")


def sign(scope: str, text: str) -> str:
    """Return the signature of *text* with the key that *scope* derives."""
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/")[1:]:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def require_equal(expected: str, signature: str) -> None:
    if not hmac.compare_digest(expected, signature):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match.")


def parse_time(moment: str) -> datetime:
    return datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def encode(text: str) -> str:
    return quote(text, safe="-_.~")


def matches(pattern: str, text: str) -> bool:
    """Return whether *text* is *pattern*, in which ``*`` stands for anything."""
    start, star, end = pattern.partition("*")
    return text == pattern if not star else text.startswith(start) and text.endswith(end)


def list_rules(text: bytes) -> list[dict[str, list[str]]]:
    """Return the CORS rules of a bucket's configuration, as lists of values by name."""
    rules = []
    for element in ET.fromstring(text):
        rule: dict[str, list[str]] = {}
        for child in element:
            rule.setdefault(child.tag.rpartition("}")[2], []).append(child.text or "")
        rules.append(rule)
    return rules


@cache
def open_client() -> httpx.Client:
    """Return a client for all requests: each new one reads the certificates of authorities."""
    return httpx.Client()


def send_direct(method: str, url: str, values: Mapping[str, str], data: bytes) -> tuple[int, str]:
    """Send a file straight to S3, and return the status and the code of its answer."""
    if method == "POST":
        answer = open_client().post(url, data=values, files={"file": ("a.jpg", data)})
    else:
        answer = open_client().put(url, headers=values, content=data)
    code = answer.text.partition("<Code>")[2].partition("</Code>")[0]
    return answer.status_code, code


@contextmanager
def run_strict_s3(upstream_port: int) -> Iterator[StrictS3]:
    """Run the server in front of moto's server at *upstream_port* until the context ends."""
    with StrictS3(upstream_port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
