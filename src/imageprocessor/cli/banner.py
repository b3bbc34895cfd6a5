"""The start-up banner of ``serve``: its address, data locations and two commands to try it."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address

import imageprocessor
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token

UPLOAD_PATH = "/api/v1/images/upload"
UPLOAD_PAGE_PATH = "/upload"
ADMIN_PATH = "/admin"
PAGE_USER = "upload-page"  #: owns only what is uploaded on the page
PAGE_TOKEN_LIFETIME = timedelta(minutes=15)


def describe_service(
    settings: Settings, listener: socket.socket, environ: Mapping[str, str], root_path: str = ""
) -> str:
    """Return the text of the banner."""
    url = reachable_url(listener)
    docs = f"{root_path}/docs, through the proxy" if root_path else f"{url}/docs"
    facts = {"listens on": url, "API docs": docs}
    facts |= _list_places(settings)
    if settings.queue_backend == "celery":
        workers = "Celery: also run 'imageprocessor worker', on this host or others"
    elif settings.worker_concurrency:
        workers = str(settings.worker_concurrency)
    else:
        workers = "none (WORKER_CONCURRENCY=0): also run 'imageprocessor worker'"
    facts["workers"] = workers
    lines = [f"imageprocessor {imageprocessor.__version__}"]
    lines += [f"  {name:<11} {value}" for name, value in facts.items()]
    lines += ["", "  Try it in another terminal:"]
    lines += [f"    {line}" for line in try_lines(settings, url, environ)]
    if settings.upload_page:
        page = (root_path or url) + UPLOAD_PAGE_PATH
        lines += ["", f"  Try it in a browser: {page}{page_token(settings, listener)}"]
    if settings.admin_ui:
        page = (root_path or url) + ADMIN_PATH
        command = "imageprocessor token --sub me --admin --expires 12h"
        lines += ["", f"  Admin pages: {page}"]
        lines += [f"    log in with a token of: {shell_prefix(settings, environ)}{command}"]
    return "\n".join(lines)


def page_token(settings: Settings, listener: socket.socket) -> str:
    """Return the part of the page's address that has a token of 15 minutes.

    Return nothing unless stderr is a terminal, because a log must not contain a token, and the
    address is a loopback one, because other machines would send it over plain HTTP.
    """
    host = ip_address(listener.getsockname()[0])
    if not (sys.stderr.isatty() and host.is_loopback):
        return ""
    return f"#token={sign_token(settings, PAGE_USER, lifetime=PAGE_TOKEN_LIFETIME)}"


def try_lines(settings: Settings, url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return two shell commands: get a token, upload a photo and wait for the result."""
    prefix = shell_prefix(settings, environ)
    bucket = settings.allowed_buckets[0] if settings.allowed_buckets else "photos"
    authorization = '-H "Authorization: Bearer $TOKEN"'
    return (
        f"TOKEN=$({prefix}imageprocessor token --sub me)",
        f"curl {authorization} -F file=@photo.jpg -F bucket={bucket} '{url}{UPLOAD_PATH}?wait=10'",
    )


def shell_prefix(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return what must stand before a command in another terminal, where DATA_DIR is not set."""
    if not environ.get("DATA_DIR"):
        return ""
    data_dir = str(settings.data_dir.resolve())
    return f"DATA_DIR={shlex.quote(data_dir)} "


def reachable_url(listener: socket.socket) -> str:
    """Return a URL that reaches *listener* from this machine."""
    address, port = listener.getsockname()[:2]
    host = ip_address(address)
    if host.is_unspecified:
        loopback = "::1" if host.version == 6 else "127.0.0.1"
        host = ip_address(loopback)
    if host.version == 6:
        return f"http://[{host}]:{port}"
    return f"http://{host}:{port}"


def _list_places(settings: Settings) -> dict[str, str]:
    """Return the data folder, and the location of the database and images if outside it."""
    data_dir = settings.data_dir.resolve()
    places = {"data": str(data_dir)}
    if settings.sqlite_path is None:
        places["database"] = "PostgreSQL"
    elif not settings.sqlite_path.resolve().is_relative_to(data_dir):
        places["database"] = str(settings.sqlite_path.resolve())
    if settings.storage_backend == "s3":
        buckets = settings.s3_bucket or ", ".join(settings.allowed_buckets)
        places["images"] = f"S3: {buckets}"
    elif not settings.storage_path.resolve().is_relative_to(data_dir):
        places["images"] = str(settings.storage_path.resolve())
    return places
