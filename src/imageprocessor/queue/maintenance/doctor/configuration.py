"""Checks of settings that are each valid but do not fit together, and of the keys for tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from imageprocessor.queue.maintenance.backup import KEY_NAME
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import KEY_COMMAND, Settings

LEAST_KEY_BITS = 80
OTHERS_MODE = 0o077  #: the rights of all but the owner


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Yield what does not fit together; a single finding where all of it does."""
    found = [*check_hosts(settings), *check_access(settings)]
    yield from found or [ok("settings", "they fit together")]


def check_hosts(settings: Settings) -> Iterator[Finding]:
    """Yield what several hosts would not share.

    A database server is taken as the sign that there are several.
    """
    several = settings.sqlite_path is None
    if several and settings.jwt_secret_key is None:
        found = (
            "JWT_SECRET_KEY is unset: "
            "each host makes a key of its own, and refuses the others' tokens."
        )
        fix = f"Set the same JWT_SECRET_KEY everywhere; make one with: {KEY_COMMAND}"
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
        fix = "For more hosts: DATABASE_URL=postgresql+psycopg://user:password@host/name"
        yield warning("settings", found, fix)


def check_access(settings: Settings) -> Iterator[Finding]:
    """Yield settings that may admit more than was meant, or send clients where they get nothing."""
    if not settings.jwt_require_exp:
        found = "JWT_REQUIRE_EXP=false: a token without expiry is good for as long as its key."
        yield warning("settings", found, "JWT_REQUIRE_EXP=true")
    if not settings.allowed_buckets:
        found = "ALLOWED_BUCKETS is empty: an upload may name any bucket."
        yield warning("settings", found, "ALLOWED_BUCKETS=a,b")
    if settings.public_base_url and not settings.public_reads:
        found = (
            "PUBLIC_BASE_URL with PUBLIC_READS=false: "
            "what answers there looks at no token, or gets no image."
        )
        yield warning("settings", found, "Unset PUBLIC_BASE_URL, or set PUBLIC_READS=true.")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the keys that sign tokens, without a character of them."""
    if settings.jwt_secret_key:
        yield check_entropy("JWT_SECRET_KEY", settings.jwt_secret_key.get_secret_value())
    for previous in settings.jwt_previous_secret_keys:
        yield check_entropy("JWT_PREVIOUS_SECRET_KEYS", previous.get_secret_value())
    if settings.jwt_secret_key is None:
        yield check_generated(settings)


def check_entropy(name: str, key: str) -> Finding:
    """Return the finding on a key whose entropy is estimated from its repetitions.

    That is Shannon's entropy of a character, times the number of different runs of three.
    """
    shares = [count / len(key) for count in Counter(key).values()]
    bits_each = -sum(share * math.log2(share) for share in shares)
    triples = {key[start : start + 3] for start in range(len(key))}
    bits = bits_each * len(triples)
    if bits >= LEAST_KEY_BITS:
        return ok("key", f"{name} looks random")
    found = f"{name} repeats itself: about {bits:.0f} bits, which can be guessed."
    return wrong("key", found, f"Make one with: {KEY_COMMAND}")


def check_generated(settings: Settings) -> Finding:
    """Return the finding on the key that the service makes where none is set."""
    path = settings.data_dir / KEY_NAME
    if not path.exists():
        return ok("key", "it is made at the first start")
    mode = path.stat().st_mode
    if mode & OTHERS_MODE:
        found = f"{path.resolve()} has mode {mode & 0o777:o}: others can sign tokens."
        return wrong("key", found, f"chmod 600 {path.resolve()}")
    return ok("key", f"{path.resolve()} is its owner's only")
