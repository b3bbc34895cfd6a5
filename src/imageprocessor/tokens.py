"""Signing and checking tokens. No other module uses PyJWT."""

from __future__ import annotations

import math
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from jwt.exceptions import InvalidSubjectError

from imageprocessor.errors import InvalidTicketError, UnauthorizedError
from imageprocessor.queue.access import Caller
from imageprocessor.settings import Settings
from imageprocessor.storage.files import create_file

ADMIN_SCOPE = "images:admin"  #: may do everything
READ_ALL_SCOPE = "images:read-all"  #: may see everything
TICKET_AUDIENCE = "imageprocessor:upload-ticket"
SESSION_AUDIENCE = "imageprocessor:admin-session"
MAX_SESSION = timedelta(hours=12)
MAX_SUBJECT_CHARACTERS = 255
#: Proxies forward no header beyond this; reading a longer token would only delay the rejection.
MAX_TOKEN_CHARACTERS = 8 * 1024
REMEMBERED_TOKENS = 1024
#: Why a token is refused, for the log. PyJWT's own messages may quote the token.
CAUSES: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "exp is in the past",
    jwt.ImmatureSignatureError: "nbf is in the future",
    jwt.InvalidAlgorithmError: "alg is not JWT_ALGORITHM",
    jwt.InvalidAudienceError: "aud is not JWT_AUDIENCE",
    jwt.InvalidIssuerError: "iss is not JWT_ISSUER",
    InvalidSubjectError: f"sub is not 1 to {MAX_SUBJECT_CHARACTERS} printable characters",
}
MALFORMED = "not a well-formed JWT"


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The key that signs new tokens, and all keys whose tokens are accepted."""

    signing: str
    accepted: tuple[str, ...]


class TokenRules(NamedTuple):
    """What the settings require of a token, besides its signature."""

    algorithm: str
    audience: str | None
    issuer: str | None
    require_exp: bool
    leeway_seconds: int


def load_keys(settings: Settings) -> TokenKeys:
    """Return JWT_SECRET_KEY and the previous keys.

    If JWT_SECRET_KEY is not set, use the key stored in DATA_DIR; generate it, with mode 0600, if it
    does not exist.
    """
    if settings.jwt_secret_key:
        signing = settings.jwt_secret_key.get_secret_value()
    else:
        path = generated_key_path(settings)
        if not path.exists():
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            # If several processes start at once, the first one creates the key and all read it.
            create_file(path, secrets.token_hex(32).encode(), 0o600)
        signing = path.read_text(encoding="ascii").strip()
    previous = [key.get_secret_value() for key in settings.jwt_previous_secret_keys]
    return TokenKeys(signing, (signing, *previous))


def generated_key_path(settings: Settings) -> Path:
    """Return the file of the key that is used if JWT_SECRET_KEY is not set."""
    return settings.data_dir / "jwt_secret_key"


def sign_token(
    settings: Settings,
    subject: str,
    *,
    admin: bool = False,
    reads_all: bool = False,
    lifetime: timedelta | None = None,
) -> str:
    """Return a token for the user *subject*, with the audience and issuer from the settings."""
    now = datetime.now(UTC)
    claims: dict[str, Any] = {"sub": subject, "iat": now}
    if scope := _write_scope(admin=admin, reads_all=reads_all):
        claims["scope"] = scope
    if lifetime:
        claims["exp"] = now + lifetime
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, load_keys(settings).signing, algorithm=settings.jwt_algorithm)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to upload one image without a token, as the user *user_id*."""

    image_id: str  #: of the image that the upload will become
    user_id: str
    bucket: str
    max_bytes: int
    metadata: str = ""  #: a JSON object, or empty
    webhook: str = ""  #: the name of an endpoint, or empty


def sign_ticket(keys: TokenKeys, settings: Settings, ticket: Ticket, expires_at: datetime) -> str:
    """Return *ticket* as a signed token, which no other route accepts as a user's token."""
    claims = {
        "aud": TICKET_AUDIENCE,
        "jti": ticket.image_id,
        "sub": ticket.user_id,
        "exp": expires_at,
        "bucket": ticket.bucket,
        "max_bytes": ticket.max_bytes,
        "metadata": ticket.metadata,
        "webhook": ticket.webhook,
    }
    return jwt.encode(claims, keys.signing, algorithm=settings.jwt_algorithm)


def check_ticket(
    token: str, keys: TokenKeys, settings: Settings, *, leeway_seconds: float = 0
) -> Ticket:
    """Return the ticket in *token*, which may have expired *leeway_seconds* ago.

    Raises:
        InvalidTicketError: It is not a ticket of this service, or has expired.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidTicketError(f"it is longer than {MAX_TOKEN_CHARACTERS} characters")
    required = ["sub", "jti", "exp", "bucket", "max_bytes"]
    try:
        claims = _decode_own(token, keys, settings, TICKET_AUDIENCE, required, leeway_seconds)
    except jwt.InvalidSignatureError:
        raise InvalidTicketError("it is signed with another key") from None
    except jwt.ExpiredSignatureError:
        raise InvalidTicketError("it has expired") from None
    except (jwt.PyJWTError, ValueError):
        raise InvalidTicketError("it is not a ticket of this service") from None
    return Ticket(
        claims["jti"],
        claims["sub"],
        claims["bucket"],
        claims["max_bytes"],
        claims["metadata"],
        claims["webhook"],
    )


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has logged in to the admin pages."""

    caller: Caller
    expires_at: datetime


def open_session(token: str, keys: TokenKeys, settings: Settings) -> Session:
    """Return a session of at most MAX_SESSION for the caller of *token*, or as long as it is valid.

    Raises:
        UnauthorizedError: See :func:`check_token`.
    """
    caller, refused_from = _check_and_date(token, keys, settings)
    ends_at = datetime.now(UTC) + MAX_SESSION
    if refused_from < ends_at.timestamp():
        ends_at = datetime.fromtimestamp(refused_from, UTC)
    return Session(caller, ends_at)


def sign_session(keys: TokenKeys, settings: Settings, session: Session) -> str:
    """Return *session* as a signed token, which no route of the API accepts as a user's token."""
    caller = session.caller
    claims = {
        "aud": SESSION_AUDIENCE,
        "sub": caller.user_id,
        "exp": session.expires_at,
        "scope": _write_scope(admin=caller.admin, reads_all=caller.reads_all),
    }
    return jwt.encode(claims, keys.signing, algorithm=settings.jwt_algorithm)


def check_session(text: str, keys: TokenKeys, settings: Settings) -> Session | None:
    """Return the session that :func:`sign_session` wrote; None if it has ended or is not ours."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        return None
    try:
        claims = _decode_own(text, keys, settings, SESSION_AUDIENCE, ["sub", "exp", "scope"])
    except (jwt.PyJWTError, ValueError):
        return None
    caller = _make_caller(claims["sub"], claims["scope"])
    return Session(caller, datetime.fromtimestamp(claims["exp"], UTC))


def _decode_own(
    token: str,
    keys: TokenKeys,
    settings: Settings,
    audience: str,
    required: list[str],
    leeway_seconds: float = 0,
) -> dict[str, Any]:
    """Return the claims of a token that this service has signed for its own use.

    Raises:
        jwt.PyJWTError, ValueError: It is not valid.
    """
    for key in keys.accepted:
        with suppress(jwt.InvalidSignatureError):
            return jwt.decode(
                token,
                key,
                algorithms=[settings.jwt_algorithm],
                audience=audience,
                leeway=settings.jwt_leeway_seconds + leeway_seconds,
                options={"require": required},
            )
    raise jwt.InvalidSignatureError


def check_token(token: str, keys: TokenKeys, settings: Settings) -> Caller:
    """Return the caller that *token* identifies.

    Raises:
        UnauthorizedError: The signature, algorithm, expiry, audience, issuer or subject is not
            valid. The message is the same for every cause; the attribute ``cause`` names it.
    """
    caller, _ = _check_and_date(token, keys, settings)
    return caller


def _check_and_date(token: str, keys: TokenKeys, settings: Settings) -> tuple[Caller, float]:
    """Return the caller that *token* identifies, and the time from which the token is refused.

    Raises:
        UnauthorizedError: The signature, algorithm, expiry, audience, issuer or subject is not
            valid. The message is the same for every cause; the attribute ``cause`` names it.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise UnauthorizedError(f"longer than {MAX_TOKEN_CHARACTERS} characters")
    rules = TokenRules(
        settings.jwt_algorithm,
        settings.jwt_audience,
        settings.jwt_issuer,
        settings.jwt_require_exp,
        settings.jwt_leeway_seconds,
    )
    for key in keys.accepted:
        try:
            caller, refused_from = _verify(token, key, rules)
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError) as error:
            raise UnauthorizedError(_explain(error)) from None
        if time.time() < refused_from:
            return caller, refused_from
        raise UnauthorizedError(CAUSES[jwt.ExpiredSignatureError])
    raise UnauthorizedError("signed with another key than JWT_SECRET_KEY")


@lru_cache(REMEMBERED_TOKENS)
def _verify(token: str, key: str, rules: TokenRules) -> tuple[Caller, float]:
    """Return the caller that *token* identifies, and the time from which the token is refused.

    Results for valid tokens are cached, because clients send the same token many times.
    """
    required = ["sub", "exp"] if rules.require_exp else ["sub"]
    claims = jwt.decode(
        token,
        key,
        algorithms=[rules.algorithm],
        audience=rules.audience,
        issuer=rules.issuer,
        leeway=rules.leeway_seconds,
        # `nbf` and `exp` limit when a token is valid; `iat` only informs (RFC 7519, section 4.1.6).
        options={"require": required, "verify_iat": False},
    )
    refused_from = int(claims["exp"]) + rules.leeway_seconds if "exp" in claims else math.inf
    subject = claims["sub"]
    if not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or not subject.isprintable():
        raise InvalidSubjectError
    return _make_caller(subject, claims.get("scope", "")), refused_from


def _make_caller(subject: str, scope: object) -> Caller:
    scopes = scope.split() if isinstance(scope, str) else ()
    return Caller(subject, ADMIN_SCOPE in scopes, READ_ALL_SCOPE in scopes)


def _write_scope(*, admin: bool, reads_all: bool) -> str:
    granted = {ADMIN_SCOPE: admin, READ_ALL_SCOPE: reads_all}
    return " ".join(scope for scope, is_granted in granted.items() if is_granted)


def _explain(error: Exception) -> str:
    """Return why a token is refused, without anything that the token contains."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"has no {error.claim}"  # a claim that the settings require
    return CAUSES.get(type(error), MALFORMED)
