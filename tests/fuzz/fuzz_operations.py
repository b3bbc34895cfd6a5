"""Searches for operations that make `check_operations` fail.

`python -m tests.fuzz.fuzz_operations -max_total_time=60`.
"""

from __future__ import annotations

from tests.fuzz.engine import run

if __name__ == "__main__":
    run("check_operations", seeds="make_operations")
