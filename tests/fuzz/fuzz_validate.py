"""Searches for bytes that make `check_validate` fail.

`python -m tests.fuzz.fuzz_validate -max_total_time=60`.
"""

from __future__ import annotations

from tests.fuzz.engine import run

if __name__ == "__main__":
    run("check_validate")
