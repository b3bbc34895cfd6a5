"""Searches for bytes that make `check_strip` fail.

`python -m tests.fuzz.fuzz_strip -max_total_time=60`.
"""

from __future__ import annotations

from tests.fuzz.engine import run

if __name__ == "__main__":
    run("check_strip")
