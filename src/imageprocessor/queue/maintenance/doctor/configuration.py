"""Checks of settings that are valid alone but conflict, and of the keys that sign tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from imageprocessor.queue.maintenance.backup import KEY_NAME
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import KEY_COMMAND, Settings

MIN_KEY_BITS = 80
OTHERS_MODE = 0o077  #: the permissions of all but the owner


def check_settings(settings: Settings, misspelt: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each misspelt name and each conflict, or a single one if there is none.

    *misspelt* maps names in ``.env`` to the settings that they resemble.
    """
    found = [*check_names(misspelt), *check_hosts(settings), *check_access(settings)]
    yield from found or [ok("settings", "no conflicts")]


def check_names(misspelt: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each name in ``.env`` that is not a setting but resembles one."""
    for name, similar in misspelt.items():
        found = f"{name} in .env is not a setting, and has no effect."
        yield warning("settings", found, f"If {similar} is meant, rename it.")


def check_hosts(settings: Settings) -> Iterator[Finding]:
    """Yield findings on what several hosts would need to share, but do not.

    A database server is taken to mean that there are several.
    """
    several = settings.sqlite_path is None
    if several and settings.jwt_secret_key is None:
        found = (
            "JWT_SECRET_KEY is unset: "
            "each host generates its own key, and rejects the other hosts' tokens."
        )
        fix = f"Set the same JWT_SECRET_KEY on every host; generate one with: {KEY_COMMAND}"
        yield wrong("settings", found, fix)
    if several and settings.storage_backend == "local":
        found = (
            "STORAGE_BACKEND=local with PostgreSQL: "
            "several hosts see each other's images only in a shared folder."
        )
        fix = "Share STORAGE_PATH and DATA_DIR/staging among all hosts, or set STORAGE_BACKEND=s3."
        yield warning("settings", found, fix)
    if not several and settings.queue_backend == "celery":
        found = "QUEUE_BACKEND=celery with SQLite: all workers must be on this host."
        fix = "For several hosts, set DATABASE_URL=postgresql+psycopg://user:password@host/name"
        yield warning("settings", found, fix)


def check_access(settings: Settings) -> Iterator[Finding]:
    """Yield findings on settings that may allow more than intended, or misdirect clients."""
    if not settings.jwt_require_exp:
        found = "JWT_REQUIRE_EXP=false: a token without expiry is valid for as long as its key."
        yield warning("settings", found, "Set JWT_REQUIRE_EXP=true.")
    if not settings.allowed_buckets:
        found = "ALLOWED_BUCKETS is empty: an upload may name any bucket."
        yield warning("settings", found, "Set ALLOWED_BUCKETS, such as ALLOWED_BUCKETS=a,b")
    if settings.public_base_url and not settings.public_reads:
        found = (
            "PUBLIC_BASE_URL with PUBLIC_READS=false: "
            "the server there either checks no tokens or gets no images."
        )
        yield warning("settings", found, "Unset PUBLIC_BASE_URL, or set PUBLIC_READS=true.")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the keys that sign tokens, without revealing any part of them."""
    if settings.jwt_secret_key:
        yield check_entropy("JWT_SECRET_KEY", settings.jwt_secret_key.get_secret_value())
    for previous in settings.jwt_previous_secret_keys:
        yield check_entropy("JWT_PREVIOUS_SECRET_KEYS", previous.get_secret_value())
    if settings.jwt_secret_key is None:
        yield check_generated(settings)


def check_entropy(name: str, key: str) -> Finding:
    """Return the finding on a key, whose entropy is estimated from its repetitions.

    The estimate is the Shannon entropy per character, times the number of distinct substrings of
    three characters.
    """
    shares = [count / len(key) for count in Counter(key).values()]
    bits_each = -sum(share * math.log2(share) for share in shares)
    triples = {key[start : start + 3] for start in range(len(key))}
    bits = bits_each * len(triples)
    if bits >= MIN_KEY_BITS:
        return ok("key", f"{name} looks random")
    found = f"{name} is repetitive: it has about {bits:.0f} bits of entropy, and can be guessed."
    return wrong("key", found, f"Generate one with: {KEY_COMMAND}")


def check_generated(settings: Settings) -> Finding:
    """Return the finding on the key that the service generates if none is set."""
    path = settings.data_dir / KEY_NAME
    if not path.exists():
        return ok("key", "it is generated at the first start")
    mode = path.stat().st_mode
    if mode & OTHERS_MODE:
        found = f"{path.resolve()} has mode {mode & 0o777:o}: other users can sign tokens."
        return wrong("key", found, f"chmod 600 {path.resolve()}")
    return ok("key", f"only its owner can read {path.resolve()}")
