"""Writing the results for readers: as a table, and on the documentation page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Plot

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLOT = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks.svg"
HEADINGS = ("work", "reference", "ours", "theirs", "ratio", "rounds", "budget", "")
MARKER = "<!-- results -->"
OURS, THEIRS = "#1f6f5c", "#b9b4a7"


def format_table(rows: Iterable[dict[str, Any]]) -> str:
    """Return *rows*, in the JSON form of :mod:`benchmarks.figures`, as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_docs(results: dict[str, Any]) -> None:
    """Write the machine and the table into the page, after its marker, and draw the plot."""
    text, marker, _ = PAGE.read_text(encoding="utf-8").partition(MARKER)
    machine = "\n".join(f"- {name}: {value}" for name, value in results["machine"].items())
    table = format_table(results["rows"])
    PAGE.write_text(f"{text}{marker}\n\n{machine}\n\n{table}\n", encoding="utf-8")
    draw([row for row in results["rows"] if "ratio" in row])


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw each ratio as a bar with its budget, on a logarithmic scale around 1, equal speed."""
    plot = Plot(figsize=(9, 0.32 * len(rows) + 1), layout="constrained")
    axes = plot.subplots()
    axes.barh(range(len(rows)), [row["ratio"] for row in rows], color=OURS, height=0.6)
    for place, row in enumerate(rows):
        if budget := row["at_most"] or row["at_least"]:
            axes.plot([budget, budget], [place - 0.45, place + 0.45], color="#c2452d")
    names = [f"{row['work']}\n{row['reference']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=6)
    axes.set_xscale("log")
    axes.axvline(1, color=THEIRS)
    axes.set_xlabel("ratio to the reference; the red line is the budget")
    axes.invert_yaxis()
    plot.savefig(PLOT, metadata={"Date": None})


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "reason" in row:
        return row["work"], row["reference"], "", "", "skipped", "", "", row["reason"]
    unit = row["unit"]
    ours, theirs = f"{row['ours']:.4g} {unit}", f"{row['theirs']:.4g} {unit}"
    ratio = f"**{row['ratio']:.3g}** ({row['lowest']:.3g}–{row['highest']:.3g})"
    budget = ""
    if row["at_most"] is not None:
        budget = f"≤ {row['at_most']:g}"
    elif row["at_least"] is not None:
        budget = f"≥ {row['at_least']:g}"
    verdict = {True: "met", False: "**missed**", None: ""}[row["met"]]
    rounds = str(row["rounds"])
    return row["work"], row["reference"], ours, theirs, ratio, rounds, budget, verdict
