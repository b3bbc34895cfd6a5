"""Commands on a real terminal of 40 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from imageprocessor.environment import load_settings
from imageprocessor.queue.service import open_service
from tests.images import encode, photo
from tests.uploads import submit_to

COMMANDS = """
import sys
from imageprocessor.cli import main
process = "process photo.jpg --out web --size thumbnail=40 --size original=60"
for command in ("jobs list", "doctor", "config", process, "inspect photo.jpg"):
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit:
        pass
"""


def print_in_terminal(program: str, columns: int) -> str:
    """Return what *program* prints on a terminal of that many columns, without styles."""
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-c", program]
    none = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=none, stdout=its, stderr=none, env=environment):
        os.close(its)
        printed = b""
        while block := _read(own):
            printed += block
    os.close(own)
    return re.sub(r"\x1b\[[\d;]*m", "", printed.decode()).replace("\r", "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux reports the end so
        return b""


def test_no_line_is_too_long_and_no_id_or_name_is_broken(folder: Path) -> None:
    (folder / "photo.jpg").write_bytes(encode(photo(50, 40), "JPEG"))
    with open_service(load_settings({})) as service:
        job = submit_to(service, user_id="someone-with-a-long-name")
    printed = print_in_terminal(COMMANDS, 40)
    assert max(map(len, printed.splitlines())) <= 40
    words = set(printed.split())
    assert {job.job_id, "pending", "warning", "durability", "RATE_LIMIT_WINDOW_MINUTES"} <= words
    assert {"photo.jpg", "50×40", "thumbnail", "original", "uploads"} <= words
