"""Writing the results for readers: as a table, and on the documentation page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import chart

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
CHART = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks.svg"
HEADINGS = ("work vs reference", "ours, theirs", "ratio (range)", "budget")
MARKER = "<!-- results -->"


def format_table(rows: Iterable[dict[str, Any]]) -> str:
    """Return *rows*, in the JSON form of :mod:`benchmarks.figures`, as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_docs(results: dict[str, Any]) -> None:
    """Write the machine and the table into the page, after its marker, and draw the chart."""
    text, marker, _ = PAGE.read_text(encoding="utf-8").partition(MARKER)
    machine = "\n".join(f"- {name}: {value}" for name, value in results["machine"].items())
    table = format_table(results["rows"])
    PAGE.write_text(f"{text}{marker}\n\n{machine}\n\n{table}\n", encoding="utf-8")
    CHART.write_text(chart.draw(results["rows"]), encoding="utf-8")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    work = f"{row['work']} vs {row['reference']}"
    if "reason" in row:
        return work, "", "skipped", row["reason"]
    values = f"{_show(row['ours'])}, {_show(row['theirs'])} {row['unit']}"
    ratio = f"**{row['ratio']:.3g}** ({row['lowest']:.3g}–{row['highest']:.3g})"
    budget = ""
    if row["at_most"] is not None:
        budget = f"≤ {row['at_most']:g}"
    elif row["at_least"] is not None:
        budget = f"≥ {row['at_least']:g}"
    verdict = {True: " met", False: " **missed**", None: ""}[row["met"]]
    return work, values, ratio, budget + verdict


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
