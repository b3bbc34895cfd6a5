"""Raw HTTP requests."""

from __future__ import annotations

from functools import cache

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token

SECRET = "a key that signs the tokens of a benchmark and nothing else"
BOUNDARY = "a-boundary-that-no-image-contains"


def get(path: str) -> bytes:
    """Return a GET request without a token."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()


def upload(path: str, image: bytes) -> bytes:
    """Return a user's upload request with *image* in its form."""
    fields = (
        'name="bucket"\r\n\r\nphotos\r\n',
        'name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n',
    )
    head = "".join(f"--{BOUNDARY}\r\nContent-Disposition: form-data; {field}" for field in fields)
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {make_token()}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


@cache
def make_token() -> str:
    return sign_token(Settings.model_validate({"jwt_secret_key": SECRET}), "benchmark")
