"""Buckets on the tests' S3 server."""

from __future__ import annotations

import uuid
from urllib.request import Request, urlopen


def create_bucket(s3: str, name: str = "") -> str:
    """Create the bucket *name*, or one with a unique name, at the URL *s3*; return its name."""
    name = name or f"images-{uuid.uuid4().hex}"
    with urlopen(Request(f"{s3}/{name}", method="PUT")):
        return name
