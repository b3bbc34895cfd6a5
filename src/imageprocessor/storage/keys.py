"""Storage keys and bucket names: the only module that builds and checks them.

In every backend, a key is one or more names joined by ``/``. A name starts with a letter or a
digit, so no key is absolute, leaves the root (``..``) or is a hidden file. No character in it has
a special meaning in a file system or a URL.
"""

from __future__ import annotations

import re

from imageprocessor.core.formats.registry import DEFAULT_OUTPUT, OUTPUT_FORMATS
from imageprocessor.errors import InvalidBucketError, InvalidKeyError

BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
S3_BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3 also allows dots
MAX_KEY_CHARACTERS = 1024  # as in S3
# 255 characters: the longest file name on Linux.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SUFFIXES = "|".join(re.escape(output.suffix) for output in OUTPUT_FORMATS.values())
_VARIANT_KEY_PATTERN = re.compile(
    rf"[^/]+/processed/(?P<size>[^/]+)/(?P<image_id>[0-9a-f-]{{36}})_(?P=size)(?:{_SUFFIXES})"
)
_SHOWN_CHARACTERS = 80


def check_bucket(name: str) -> str:
    """Return *name* if it is a valid bucket name.

    >>> check_bucket("profile-pictures")
    'profile-pictures'

    Raises:
        InvalidBucketError: *name* is not 2 to 63 lower-case letters, digits and hyphens, or
            starts with a hyphen.
    """
    if not BUCKET_PATTERN.fullmatch(name):
        raise InvalidBucketError(
            f"{_shown(name)} is not a valid bucket name. Use 2 to 63 lower-case letters, digits "
            "and hyphens, starting with a letter or a digit."
        )
    return name


def check_key(key: str) -> str:
    """Return *key* if it is valid in every backend.

    Raises:
        InvalidKeyError: *key* is empty, too long or absolute, contains ``..``, or has a character
            that keys may not contain.
    """
    if not is_key(key):
        raise InvalidKeyError(
            f"{_shown(key)} is not a valid storage key. Use names of letters, digits, '.', '_' "
            "and '-', each starting with a letter or a digit, joined by '/', "
            f"at most {MAX_KEY_CHARACTERS} characters in total."
        )
    return key


def is_key(key: str) -> bool:
    """Return whether *key* is valid in every backend."""
    if len(key) > MAX_KEY_CHARACTERS:
        return False
    return all(_NAME_PATTERN.fullmatch(name) for name in key.split("/"))


def variant_key(bucket: str, size: str, image_id: str, output: str = DEFAULT_OUTPUT) -> str:
    """Return the key of an image's variant *size* in the format *output*.

    >>> variant_key("avatars", "medium", "9b2f", "jpeg")
    'avatars/processed/medium/9b2f_medium.jpg'

    Raises:
        InvalidBucketError: *bucket* is not a bucket name.
        InvalidKeyError: *size* or *image_id* cannot be part of a key.
    """
    check_bucket(bucket)
    _check_name(size)
    _check_name(image_id)
    file_name = f"{image_id}_{size}{OUTPUT_FORMATS[output].suffix}"
    return check_key(f"{bucket}/processed/{size}/{file_name}")


def image_id_of(key: str) -> str | None:
    """Return the id in a key that :func:`variant_key` built, or None for any other key.

    >>> image_id_of("avatars/processed/medium/3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13_medium.webp")
    '3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13'
    """
    match = _VARIANT_KEY_PATTERN.fullmatch(key)
    return match["image_id"] if match else None


def staging_key(bucket: str, job_id: str) -> str:
    """Return the key of a staged upload.

    >>> staging_key("avatars", "9b2f")
    'avatars/9b2f'

    Raises:
        InvalidBucketError: *bucket* is not a bucket name.
        InvalidKeyError: *job_id* cannot be part of a key.
    """
    return f"{check_bucket(bucket)}/{_check_name(job_id)}"


def job_id_of(key: str) -> str:
    """Return the id in a key that :func:`staging_key` built.

    >>> job_id_of("avatars/9b2f")
    '9b2f'
    """
    return key.rpartition("/")[2]


def _check_name(name: str) -> str:
    if "/" in name:
        raise InvalidKeyError(
            f"{_shown(name)} contains a '/'. Use a single name as this part of a storage key."
        )
    return check_key(name)


def _shown(value: str) -> str:
    if len(value) > _SHOWN_CHARACTERS:
        value = f"{value[:_SHOWN_CHARACTERS]}…"
    return repr(value)
