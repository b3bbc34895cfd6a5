"""The memory of an API process that receives a batch."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.server.live import BOUNDARY, form_start, get, upload_head, wire
from tests.servers import find_free_port, run_server
from tests.servers.processes import wait_for

MEGABYTE = 1024 * 1024
FILES = 20
KEY = "tests-only-tests-only-tests-only-tests-only"


def read_memory(process_id: int, name: str) -> float:
    """Return an entry of the process's status, in MB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    assert match
    return int(match[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_batch_of_a_hundred_megabytes_takes_little_memory(tmp_path: Path) -> None:
    port = find_free_port()
    settings = {"DATA_DIR": str(tmp_path), "JWT_SECRET_KEY": KEY, "WORKER_CONCURRENCY": "0"}
    command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
    token = sign_token(Settings.model_validate({"jwt_secret_key": KEY}), "ann")
    part = f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    file = b"x" * (5 * MEGABYTE - 4096)
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    length = len(form_start()) + FILES * len(file) + (FILES - 1) * len(part) + len(end)
    head = upload_head(f"Authorization: Bearer {token}", f"Content-Length: {length}")
    environment = {**os.environ, **settings}
    with run_server(command, port, tmp_path / "serve.log", env=environment) as server:
        wait_for(lambda: get(port, "/readyz")[0].status == 200)
        idle = read_memory(server.process.pid, "VmRSS")
        with wire(port) as line:
            line.send(head.replace(b"/images/upload", b"/images/batch") + form_start() + file)
            for _ in range(FILES - 1):
                line.send(part + file)
            line.send(end)
            response, answer = line.answer()
        peak = read_memory(server.process.pid, "VmHWM")
    assert (response.status, json.loads(answer)["refused"]) == (207, FILES)
    assert peak - idle < 40, f"{idle:.0f} MB idle, {peak:.0f} MB at the peak"
