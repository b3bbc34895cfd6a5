"""Buckets on the S3 server of the tests."""

from __future__ import annotations

import uuid
from urllib.request import Request, urlopen


def create_bucket(s3: str, name: str = "") -> str:
    """Make a bucket on the server at the URL *s3*, under a name of its own unless one is given.

    And return its name.
    """
    name = name or f"images-{uuid.uuid4().hex}"
    with urlopen(Request(f"{s3}/{name}", method="PUT")):
        return name
