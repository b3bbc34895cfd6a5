from __future__ import annotations

import base64
import hmac
import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.exceptions import InvalidSubjectError

from imageprocessor.errors import UnauthorizedError
from imageprocessor.queue.access import Caller
from imageprocessor.settings import Settings
from imageprocessor.tokens import CAUSES, MALFORMED, check_token, load_keys, sign_token

KEY, OLD_KEY = "k" * 32, "o" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path, "jwt_secret_key": KEY, "jwt_previous_secret_keys": (OLD_KEY,)}
    )


def check(token: str, settings: Settings) -> Caller:
    return check_token(token, load_keys(settings), settings)


def encode(claims: dict[str, Any], key: str = KEY, **options: Any) -> str:
    return jwt.encode(claims, key, **{"algorithm": "HS256", **options})


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, claims)
    ]
    return ".".join([*parts, ""])


def signed(claims: str) -> str:
    """Return a token with a valid signature, whose claims may be invalid."""
    token: str = jwt.api_jws.encode(claims.encode("utf-8", "surrogatepass"), KEY, algorithm="HS256")
    return token


def test_signed_token_names_its_user_and_scope(settings: Settings) -> None:
    assert check(sign_token(settings, "ann"), settings) == Caller("ann")
    assert check(sign_token(settings, "root", admin=True), settings) == Caller("root", admin=True)


def test_the_specifications_token_without_expiry_is_accepted(settings: Settings) -> None:
    assert check(encode({"sub": "test-user-123"}), settings) == Caller("test-user-123")


def test_previous_key_is_accepted_but_not_used_for_new_tokens(
    settings: Settings,
) -> None:
    assert check(encode({"sub": "ann"}, OLD_KEY), settings) == Caller("ann")
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(sign_token(settings, "ann"), OLD_KEY, algorithms=["HS256"])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        unsigned({"alg": "none"}, {"sub": "ann"}),
        unsigned({"alg": "HS256"}, {"sub": "ann"}),
        encode({"sub": "ann"}, "another key of thirty-two bytes!!"),
        encode({"sub": "ann"}, KEY * 2, algorithm="HS512"),
        encode({"sub": "ann", "exp": time.time() - 11}),
        encode({"sub": "ann", "nbf": time.time() + 36_000}),
        encode({"sub": "ann", "aud": "another service"}),
        encode({}),
        encode({"sub": ""}),
        encode({"sub": "a" * 256}),
        encode({"sub": "a\x00b"}),
        encode({"sub": "\ud800"}),
        encode({"sub": "ann"}, headers={"crit": ["b64"], "b64": False}),
        encode({"sub": "ann"}, headers={"crit": ["unknown"], "unknown": 1}),
        encode({"sub": "ann", "x": "y" * 1_000_000}),
        *[
            signed(f'{{"sub":"ann",{claim}}}')
            for claim in (
                '"exp":1e999',
                '"nbf":1e999',
                '"exp":NaN',
                '"exp":"never"',
                '"exp":null',
                '"exp":[]',
            )
        ],
        *[
            signed(claims)
            for claims in (
                '["sub"]',
                '"sub"',
                "null",
                "[" * 3_000,
                '{"sub":["ann"]}',
                '{"sub":{"ann":1}}',
                "\ud800",
            )
        ],
    ],
)
def test_every_invalid_token_is_refused_with_the_same_message(
    token: str, settings: Settings
) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        check(token, settings)
    assert str(caught.value) == str(UnauthorizedError())


ALGORITHMS = [
    "none",
    "None",
    "NONE",
    "nOnE",
    "",
    None,
    0,
    ["HS256"],
    {"HS256": 1},
    " HS256",
    "hs256",
    "HS384",
    "RS256",
    "ES256",
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sender_of_a_token_cannot_choose_its_algorithm(
    algorithm: object, settings: Settings
) -> None:
    digest = {"HS384": "sha384"}.get(str(algorithm), "sha256")
    head_and_body = unsigned({"alg": algorithm, "typ": "JWT"}, {"sub": "ann"})
    signature = hmac.digest(KEY.encode(), head_and_body[:-1].encode(), digest)
    for end in (b"", base64.urlsafe_b64encode(signature).rstrip(b"=")):
        with pytest.raises(UnauthorizedError):
            check(head_and_body + end.decode(), settings)


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "kid"])
def test_key_inside_a_token_is_not_trusted(name: str, settings: Settings) -> None:
    own = "the attacker's own key, 32 bytes."
    brought = (
        {"kty": "oct", "k": base64.urlsafe_b64encode(own.encode()).decode()}
        if name == "jwk"
        else own
    )
    with pytest.raises(UnauthorizedError):
        check(encode({"sub": "ann"}, own, headers={name: brought}), settings)


def test_subject_of_the_maximum_length_is_accepted(settings: Settings) -> None:
    assert check(encode({"sub": "é" * 255}), settings) == Caller("é" * 255)


def test_last_of_repeated_claims_counts(settings: Settings) -> None:
    twice = signed('{"sub":"ann","scope":"images:admin","sub":"bob","scope":""}')
    assert check(twice, settings) == Caller("bob")


def test_previous_key_is_refused_once_it_is_removed(settings: Settings) -> None:
    rotated = settings.model_copy(update={"jwt_previous_secret_keys": ()})
    with pytest.raises(UnauthorizedError):
        check(encode({"sub": "ann"}, OLD_KEY), rotated)


def test_invalid_tokens_are_refused_quickly(settings: Settings) -> None:
    nested = base64.urlsafe_b64encode(b"[" * 750_000).decode()
    for token in (
        "x" * 1_000_000,
        "." * 1_000_000,
        f"{nested}.{nested}.c2ln",
        encode({"sub": "a" * 1_000_000}, OLD_KEY),
    ):
        started = time.process_time()
        with pytest.raises(UnauthorizedError):
            check(token, settings)
        assert time.process_time() - started < 0.01


def test_subject_must_be_text(settings: Settings) -> None:
    header, body, _ = encode({"sub": "ann"}).split(".")
    forged = jwt.api_jws.encode(json.dumps({"sub": 7}).encode(), KEY, algorithm="HS256")
    assert forged.split(".")[0] == header != body
    with pytest.raises(UnauthorizedError):
        check(forged, settings)


def test_audience_issuer_and_expiry_are_required_if_set(settings: Settings) -> None:
    strict = settings.model_copy(
        update={"jwt_audience": "img", "jwt_issuer": "idp", "jwt_require_exp": True}
    )
    good = sign_token(strict, "ann", lifetime=timedelta(hours=1))
    assert check(good, strict) == Caller("ann")
    claims = {"sub": "ann", "aud": "img", "iss": "idp", "exp": time.time() + 60}
    for name in ("aud", "iss", "exp"):
        with pytest.raises(UnauthorizedError):
            check(encode({key: value for key, value in claims.items() if key != name}), strict)


def test_accepted_token_is_refused_after_it_expires(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = int(time.time()) + 60
    token = encode({"sub": "ann", "exp": expires_at})
    last_accepted_at = expires_at + settings.jwt_leeway_seconds - 0.01
    for now in (time.time(), last_accepted_at):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert check(token, settings) == Caller("ann")
    monkeypatch.setattr(time, "time", lambda: last_accepted_at + 0.02)
    with pytest.raises(UnauthorizedError) as caught:
        check(token, settings)
    assert caught.value.cause == CAUSES[jwt.ExpiredSignatureError]


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize("leeway_seconds", [0, 10, 120])
def test_clocks_may_differ_by_the_leeway(
    settings: Settings, claim: str, leeway_seconds: int
) -> None:
    lenient = settings.model_copy(update={"jwt_leeway_seconds": leeway_seconds})
    direction = -1 if claim == "exp" else 1
    for seconds, is_accepted in ((leeway_seconds - 3, True), (leeway_seconds + 3, False)):
        token = encode({"sub": "ann", claim: int(time.time()) + direction * seconds})
        if is_accepted:
            assert check(token, lenient) == Caller("ann")
        else:
            with pytest.raises(UnauthorizedError):
                check(token, lenient)


def test_token_accepted_with_leeway_is_refused_without(settings: Settings) -> None:
    token = encode({"sub": "ann", "exp": int(time.time()) - 3})
    assert check(token, settings) == Caller("ann")
    with pytest.raises(UnauthorizedError):
        check(token, settings.model_copy(update={"jwt_leeway_seconds": 0}))


@pytest.mark.parametrize("issued_at", ["4102444800", "1e999", "NaN", '"yesterday"', "null", "[]"])
def test_time_of_issue_is_no_reason_to_refuse_a_token(settings: Settings, issued_at: str) -> None:
    assert check(signed(f'{{"sub":"ann","iat":{issued_at}}}'), settings) == Caller("ann")


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        (encode({"sub": "ann", "exp": 1}), CAUSES[jwt.ExpiredSignatureError]),
        (encode({"sub": "ann", "nbf": 4102444800}), CAUSES[jwt.ImmatureSignatureError]),
        (encode({"sub": "ann", "aud": "hush"}), CAUSES[jwt.InvalidAudienceError]),
        (encode({"sub": "hush\n"}), CAUSES[InvalidSubjectError]),
        (encode({"sub": "hush"}, KEY * 2, algorithm="HS512"), CAUSES[jwt.InvalidAlgorithmError]),
        (encode({"scope": "hush"}), "has no sub"),
        (encode({"sub": "hush"}, "k" * 33), "signed with another key than JWT_SECRET_KEY"),
        (encode({"sub": "ann"}, headers={"crit": ["hush"], "hush": 1}), MALFORMED),
        (signed('{"sub":"ann","exp":"hush"}'), MALFORMED),
        ("hush.hush.hush", MALFORMED),
        ("hush" * 3000, "longer than 8192 characters"),
    ],
)
def test_cause_of_a_refusal_is_known_and_quotes_nothing_of_the_token(
    settings: Settings, token: str, cause: str
) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        check(token, settings)
    assert caught.value.cause == cause
    assert "hush" not in f"{caught.value} {cause}"


def test_accepted_token_is_refused_after_its_key_is_removed(settings: Settings) -> None:
    token = encode({"sub": "ann"}, OLD_KEY)
    assert check(token, settings) == Caller("ann")
    with pytest.raises(UnauthorizedError):
        check(token, settings.model_copy(update={"jwt_previous_secret_keys": ()}))


@pytest.mark.parametrize("scope", [None, "", "images:administrator", "images", ["images:admin"], 7])
def test_only_the_exact_scope_makes_an_admin(scope: object, settings: Settings) -> None:
    assert not check(encode({"sub": "ann", "scope": scope}), settings).admin


def test_missing_key_is_generated_once_with_mode_0600(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_keys(settings).signing, range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    path = settings.data_dir / "jwt_secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(settings.data_dir.iterdir()) == [path]
