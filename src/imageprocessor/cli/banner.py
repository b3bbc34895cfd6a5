"""What ``serve`` says first: where it is, where it keeps things, and two lines that try it."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import imageprocessor
from imageprocessor.environment import find_origin
from imageprocessor.settings import Settings

UPLOAD_PATH = "/api/v1/images/upload"


def describe_service(
    settings: Settings, listener: socket.socket, environ: Mapping[str, str]
) -> str:
    """Return the banner, several lines."""
    url = reachable_url(listener)
    facts = {
        "listens on": url,
        "API docs": f"{url}/docs",
        **_places(settings),
        "workers": _workers(settings),
    }
    lines = [f"  {name:<11} {value}" for name, value in facts.items()]
    trial = [f"    {line}" for line in try_lines(settings, url, environ)]
    return "\n".join(
        [
            f"imageprocessor {imageprocessor.__version__}",
            *lines,
            "",
            "  Try it in another terminal:",
            *trial,
        ]
    )


def try_lines(settings: Settings, url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return two lines for a shell: get a token, upload a photo."""
    elsewhere = (
        find_origin("data_dir", environ) == "environment"
    )  # another terminal does not have it
    prefix = f"DATA_DIR={shlex.quote(str(settings.data_dir.resolve()))} " if elsewhere else ""
    bucket = next(iter(settings.allowed_buckets), "photos")
    return (
        f"TOKEN=$({prefix}imageprocessor token --sub me)",
        f'curl -H "Authorization: Bearer $TOKEN" -F file=@photo.jpg -F bucket={bucket} {url}{UPLOAD_PATH}',
    )


def reachable_url(listener: socket.socket) -> str:
    """Return a URL that reaches *listener* from this machine."""
    address, port = listener.getsockname()[:2]
    host = ip_address(address)
    if host.is_unspecified:
        host = ip_address("::1" if host.version == 6 else "127.0.0.1")
    return f"http://[{host}]:{port}" if host.version == 6 else f"http://{host}:{port}"


def _places(settings: Settings) -> dict[str, str]:
    """Name the folder of all data, and what is kept elsewhere."""
    data_dir = settings.data_dir.resolve()
    buckets = settings.s3_bucket or ", ".join(settings.allowed_buckets)
    images = (
        settings.storage_path.resolve() if settings.storage_backend == "local" else f"S3: {buckets}"
    )
    database = settings.sqlite_path.resolve() if settings.sqlite_path else "PostgreSQL"
    places = {"database": database, "images": images}
    return {"data": str(data_dir)} | {
        name: str(place)
        for name, place in places.items()
        if not (isinstance(place, Path) and place.is_relative_to(data_dir))
    }


def _workers(settings: Settings) -> str:
    if settings.queue_backend == "celery":
        return "Celery's: run 'imageprocessor worker' beside this, here or on other hosts"
    if settings.worker_concurrency:
        return str(settings.worker_concurrency)
    return "none here (WORKER_CONCURRENCY=0): run 'imageprocessor worker' beside this"
