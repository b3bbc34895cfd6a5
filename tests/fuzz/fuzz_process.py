"""Looks for bytes that `check_process` does not stand.

`python -m tests.fuzz.fuzz_process -max_total_time=60`.
"""

from __future__ import annotations

from tests.fuzz.engine import run

if __name__ == "__main__":
    run("check_process")
