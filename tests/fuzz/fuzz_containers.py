"""Searches for bytes that make `check_containers` fail.

`python -m tests.fuzz.fuzz_containers -max_total_time=60`.
"""

from __future__ import annotations

from tests.fuzz.engine import run

if __name__ == "__main__":
    run("check_containers")
