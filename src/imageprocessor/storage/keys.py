"""The names under which bytes are stored: built and checked here, nowhere else.

A key is one or more names joined by ``/``, in every backend. A name begins with a letter or a
digit, so that no key is absolute, climbs (``..``) or is hidden, and has nothing in it that a file
system or a URL could read differently.
"""

from __future__ import annotations

import re

from imageprocessor.core.formats.registry import OUTPUT_FORMAT
from imageprocessor.errors import InvalidBucketError, InvalidKeyError

BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
S3_BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # dots are S3's own
MAX_KEY_CHARACTERS = 1024  # as in S3
# 255 characters: the longest file name on Linux.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_VARIANT_KEY_PATTERN = re.compile(
    r"[^/]+/processed/(?P<size>[^/]+)/(?P<image_id>[0-9a-f-]{36})_(?P=size)"
    + re.escape(OUTPUT_FORMAT.suffix)
)
_SHOWN_CHARACTERS = 80


def check_bucket(name: str) -> str:
    """Return *name* if it is a bucket name.

    >>> check_bucket("profile-pictures")
    'profile-pictures'

    Raises:
        InvalidBucketError: It is not 2 to 63 lower-case letters, digits and hyphens, the first one
            no hyphen.
    """
    if not BUCKET_PATTERN.fullmatch(name):
        raise InvalidBucketError(
            f"{_shown(name)} is not a bucket name: use 2 to 63 lower-case letters, digits and "
            "hyphens, and begin with a letter or a digit."
        )
    return name


def check_key(key: str) -> str:
    """Return *key* if every backend can store under it.

    Raises:
        InvalidKeyError: It is empty, too long, absolute, climbing, or has a character that keys do
            not have.
    """
    if not is_key(key):
        raise InvalidKeyError(
            f"{_shown(key)} is not a storage key: use names of letters, digits, '.', '_' and '-' "
            "that begin with a letter or a digit, joined by '/', "
            f"at most {MAX_KEY_CHARACTERS} characters in all."
        )
    return key


def is_key(key: str) -> bool:
    """Return whether every backend can store under *key*."""
    if len(key) > MAX_KEY_CHARACTERS:
        return False
    return all(_NAME_PATTERN.fullmatch(name) for name in key.split("/"))


def variant_key(bucket: str, size: str, image_id: str) -> str:
    """Return the key of one size of an image.

    >>> variant_key("avatars", "medium", "9b2f")
    'avatars/processed/medium/9b2f_medium.webp'

    Raises:
        InvalidBucketError: *bucket* is not a bucket name.
        InvalidKeyError: *size* or *image_id* cannot be part of a key.
    """
    check_bucket(bucket)
    _check_name(size)
    _check_name(image_id)
    file_name = f"{image_id}_{size}{OUTPUT_FORMAT.suffix}"
    return check_key(f"{bucket}/processed/{size}/{file_name}")


def image_id_of(key: str) -> str | None:
    """Return the id in a key that :func:`variant_key` built, or None for any other key.

    >>> image_id_of("avatars/processed/medium/3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13_medium.webp")
    '3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13'
    """
    match = _VARIANT_KEY_PATTERN.fullmatch(key)
    return match["image_id"] if match else None


def staging_key(bucket: str, job_id: str) -> str:
    """Return the key of an upload that waits to be processed.

    >>> staging_key("avatars", "9b2f")
    'avatars/9b2f'

    Raises:
        InvalidBucketError: *bucket* is not a bucket name.
        InvalidKeyError: *job_id* cannot be part of a key.
    """
    return f"{check_bucket(bucket)}/{_check_name(job_id)}"


def _check_name(name: str) -> str:
    if "/" in name:
        raise InvalidKeyError(
            f"{_shown(name)} cannot be one name of a storage key: it has a '/' in it."
        )
    return check_key(name)


def _shown(value: str) -> str:
    if len(value) > _SHOWN_CHARACTERS:
        value = f"{value[:_SHOWN_CHARACTERS]}…"
    return repr(value)
