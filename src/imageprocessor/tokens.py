"""Tokens say who may upload, delete and administer.

Signed by the CLI, checked by the server; only here is PyJWT.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt

from imageprocessor.errors import UnauthorizedError
from imageprocessor.queue.access import Caller
from imageprocessor.settings import Settings
from imageprocessor.storage.files import create_file

ADMIN_SCOPE = "images:admin"
MAX_SUBJECT_CHARACTERS = 255
MAX_TOKEN_CHARACTERS = (
    8 * 1024
)  #: what proxies pass on in one header; reading more costs time before it is refused
REMEMBERED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The key that signs, and all keys that are accepted."""

    signing: str
    accepted: tuple[str, ...]


def load_keys(settings: Settings) -> TokenKeys:
    """Return JWT_SECRET_KEY, or else the generated key in DATA_DIR (made now, mode 0600.

    If there is none).
    """
    configured = settings.jwt_secret_key
    signing = configured.get_secret_value() if configured else _generated_key(settings.data_dir)
    return TokenKeys(
        signing, (signing, *(key.get_secret_value() for key in settings.jwt_previous_secret_keys))
    )


def sign_token(
    settings: Settings, subject: str, *, admin: bool = False, lifetime: timedelta | None = None
) -> str:
    """Return a token for the user *subject*.

    With the audience and issuer that the settings ask for.
    """
    claims: dict[str, Any] = {"sub": subject, "iat": datetime.now(UTC)}
    optional = {
        "scope": ADMIN_SCOPE if admin else None,
        "exp": datetime.now(UTC) + lifetime if lifetime else None,
        "aud": settings.jwt_audience,
        "iss": settings.jwt_issuer,
    }
    claims.update({name: value for name, value in optional.items() if value})
    return jwt.encode(claims, load_keys(settings).signing, algorithm=settings.jwt_algorithm)


def check_token(token: str, keys: TokenKeys, settings: Settings) -> Caller:
    """Return whom *token* speaks for.

    Raises:
        UnauthorizedError: The same for every cause: signature, algorithm, expiry, audience, issuer
            or subject.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise UnauthorizedError
    rules = (
        settings.jwt_algorithm,
        settings.jwt_audience,
        settings.jwt_issuer,
        settings.jwt_require_exp,
    )
    for key in keys.accepted:
        try:
            caller, expires_at = _verify(token, key, *rules)
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError):
            break
        if time.time() < expires_at:
            return caller
        break
    raise UnauthorizedError


@lru_cache(REMEMBERED_TOKENS)
def _verify(
    token: str,
    key: str,
    algorithm: str,
    audience: str | None,
    issuer: str | None,
    require_exp: bool,
) -> tuple[Caller, float]:
    """Return whom *token* speaks for, and until when.

    A good one is remembered: clients send theirs again and again.
    """
    required = ["sub", "exp"] if require_exp else ["sub"]
    claims = jwt.decode(
        token,
        key,
        algorithms=[algorithm],
        audience=audience,
        issuer=issuer,
        options={"require": required},
    )
    return _caller(claims), int(claims["exp"]) if "exp" in claims else math.inf


def _caller(claims: dict[str, Any]) -> Caller:
    subject, scope = claims["sub"], claims.get("scope", "")
    if not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or not subject.isprintable():
        raise ValueError("sub is empty, too long or not printable")
    return Caller(subject, isinstance(scope, str) and ADMIN_SCOPE in scope.split())


def _generated_key(data_dir: Path) -> str:
    path = data_dir / "jwt_secret_key"
    if not path.exists():
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Of several processes that start now, the first one's key is the one that all read.
        create_file(path, secrets.token_hex(32).encode(), 0o600)
    return path.read_text(encoding="ascii").strip()
