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


def upload(path: str, image: bytes, copies: int = 1) -> bytes:
    """Return a user's upload request with *copies* of *image* in its form."""
    part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    file = b'name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' + image + b"\r\n"
    body = part + b'name="bucket"\r\n\r\nphotos\r\n'
    body += (part + file) * copies + f"--{BOUNDARY}--\r\n".encode()
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
