"""nginx in front of a service, with `deploy/`'s configuration, free ports and a certificate."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import require_program
from tests.servers import find_free_port, run_server

DEPLOY = Path(__file__).parents[2] / "deploy"
MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/nginx.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """The ports of a running nginx, and an SSL context that trusts its certificate."""

    http_port: int
    https_port: int
    trust: ssl.SSLContext


@contextmanager
def run_nginx(
    folder: Path, service_port: int, storage: Path, changes: Mapping[str, str] | None = None
) -> Iterator[Nginx]:
    """Run nginx in front of the service on *service_port*, with *changes* to its configuration."""
    program = require_program("nginx")
    folder.mkdir()
    http_port, https_port = find_free_port(), find_free_port()
    trust = make_certificate(folder)
    places = {
        "    listen [::]:80;\n": "",
        "    listen [::]:443 ssl http2;\n": "",
        "listen 80;": f"listen 127.0.0.1:{http_port};",
        "listen 443 ": f"listen 127.0.0.1:{https_port} ",
        "server 127.0.0.1:8000 ": f"server 127.0.0.1:{service_port} ",
        "/etc/ssl/imageprocessor": str(folder),
        "/etc/nginx/imageprocessor": str(folder),
        "/var/lib/imageprocessor/storage": str(storage),
    }
    render(folder, {**places, **(changes or {})})
    user = "user root root;" if os.geteuid() == 0 else ""
    (folder / "main.conf").write_text(MAIN.format(folder=folder, user=user))
    command = [program, "-p", str(folder), "-c", str(folder / "main.conf"), "-e", "stderr"]
    with run_server(command, https_port, folder / "nginx.log"):
        yield Nginx(http_port, https_port, trust)


def render(folder: Path, changes: Mapping[str, str]) -> None:
    """Copy the configuration into *folder* with *changes*; each old text must occur in it."""
    texts = {
        path.name: path.read_text()
        for path in [DEPLOY / "nginx.conf", *DEPLOY.glob("nginx/*.conf")]
    }
    for old, new in changes.items():
        assert any(old in text for text in texts.values()), f"{old!r} is not in the configuration"
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    for name, text in texts.items():
        (folder / name).write_text(text)


def make_certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate for 127.0.0.1 and its key to *folder*; return a context trusting it."""
    names = {"-keyout": "privkey.pem", "-out": "fullchain.pem"}
    files = [part for option, name in names.items() for part in (option, str(folder / name))]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = require_program("openssl")
    subprocess.run(
        [openssl, "req", "-x509", *kind, *subject, *files], check=True, capture_output=True
    )
    return ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
