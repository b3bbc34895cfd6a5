"""Run the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Skipped
from benchmarks.report import format_table, write_docs
from benchmarks.surroundings import describe_machine

SUBJECTS = (
    "pipeline",
    "avif",
    "strip",
    "service",
    "workers",
    "history",
    "webhooks",
    "memory",
    "startup",
)


def main(arguments: list[str]) -> int:
    """Measure, print the table, and return 1 if a budget is missed, else 0."""
    options = parse(arguments)
    rows: list[Figure | Skipped] = []
    for subject in options.subjects:
        sys.stderr.write(f"measuring {subject} …\n")
        rows += import_module(f"benchmarks.{subject}").measure(options.rounds)
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "rows": [row.to_json() for row in rows],
    }
    sys.stdout.write(format_table(results["rows"]) + "\n")
    options.json.write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if options.docs:
        write_docs(results)
    return int(any(isinstance(row, Figure) and row.met is False for row in rows))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "subjects",
        nargs="*",
        default=SUBJECTS,
        metavar="SUBJECT",
        help=f"any of {', '.join(SUBJECTS)}",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="how often each contender runs (default: 7)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks.json"), help="where to write the results"
    )
    parser.add_argument("--docs", action="store_true", help="update docs/benchmarks.md, too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
