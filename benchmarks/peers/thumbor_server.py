# /// script
# dependencies = ["thumbor>=7.8"]
# ///
"""A thumbor server with its files on disk and no result cache.

A job is four requests, as a web page would send them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from answering import QUALITY, WIDTHS, answer

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SETTINGS = """
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = "{root}"
STORAGE = "thumbor.storages.no_storage"
ALLOW_UNSAFE_URL = True
MAX_WIDTH = 4096
"""

photo = Path(sys.argv[1]).resolve()
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
    settings.write(SETTINGS.format(root=photo.parent))
    settings.flush()
    command = [
        sys.executable,
        "-m",
        "thumbor.server",
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "-c",
        settings.name,
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run() -> int:
        """Fetch all sizes and return the bytes received."""
        return sum(len(fetch(width)) for width in WIDTHS)

    def fetch(width: int) -> bytes:
        url = f"http://127.0.0.1:{port}/unsafe/{width}x0/filters:no_upscale():format(webp):quality({QUALITY})/{photo.name}"
        with urlopen(url) as answered:
            return bytes(answered.read())

    def cpu_seconds() -> float:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    try:
        for _ in range(100):
            time.sleep(0.1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        answer(run, cpu_seconds)
    finally:
        server.kill()
