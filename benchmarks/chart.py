"""The chart of README and docs/benchmarks.md: CPU time of one job, for each contender."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import escape

WORK = "12 MP JPEG → 4 WebP, s of CPU"
WIDTH, BAR_LEFT, BAR_WIDTH, ROW_HEIGHT, TOP = 720, 210, 420, 46, 66
STYLE = """
    text { font: 19px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2933 }
    .head { font-weight: 600 }
    rect { fill: #b3bbc4 }
    .ours { fill: #1f6f5c }
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e9ee }
      rect { fill: #56616c }
      .ours { fill: #5cbfa4 }
    }
"""  # noqa: E501 - a font stack


def draw(rows: Iterable[dict[str, Any]]) -> str:
    """Return an SVG with a bar for us and for each peer that was measured in the same rounds.

    *rows* are the figures of a run, as :meth:`benchmarks.figures.Figure.to_json` returns them. The
    bare codecs are measured in rounds of their own, so they have no bar.
    """
    peers = [row for row in rows if row["work"] == WORK and "bare" not in row["reference"]]
    measured = [row for row in peers if "ratio" in row]
    if not measured:
        return ""
    bars = {row["reference"].removesuffix(", its defaults"): row["theirs"] for row in measured}
    ordered = sorted(bars.items(), key=lambda bar: bar[1])
    ordered.insert(0, ("imageprocessor", measured[0]["ours"]))
    longest = max(seconds for _, seconds in ordered)
    lines = ['  <text class="head" x="0" y="30">CPU seconds for one job</text>']
    for place, (name, seconds) in enumerate(ordered):
        y = TOP + place * ROW_HEIGHT
        width = round(BAR_WIDTH * seconds / longest)
        style = ' class="ours"' if name == "imageprocessor" else ""
        lines += [
            f'  <text x="0" y="{y + 21}">{escape(name)}</text>',
            f'  <rect{style} x="{BAR_LEFT}" y="{y}" width="{width}" height="30" rx="4"/>',
            f'  <text x="{BAR_LEFT + width + 10}" y="{y + 21}">{seconds:.2f}</text>',
        ]
    height = TOP + len(ordered) * ROW_HEIGHT
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">'
    )
    title = "  <title>CPU seconds to turn a 12-megapixel JPEG into four WebP sizes</title>"
    return "\n".join([opening, title, f"  <style>{STYLE}  </style>", *lines, "</svg>", ""])
