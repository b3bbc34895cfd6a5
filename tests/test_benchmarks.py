"""The benchmark program runs; its figures only mean something on a quiet machine."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import avif, chart, filters, strip
from benchmarks.figures import Skipped, compare, interleave
from benchmarks.peers import find_obstacle, node
from benchmarks.photo import encode_noisy_photo, encode_photo


@pytest.mark.parametrize(
    ("ours", "budget", "met"),
    [
        ([1.0, 9.0, 2.0], {"at_most": 0.5}, True),
        ([3.0, 3.0, 1.0], {"at_most": 0.5}, False),
        ([3.0, 3.0, 1.0], {"at_least": 0.75}, True),
        ([3.0, 3.0, 1.0], {"at_least": 0.8}, False),
        ([3.0, 3.0, 1.0], {}, None),
    ],
)
def test_median_of_the_rounds_decides(
    ours: list[float], budget: dict[str, float], met: bool | None
) -> None:
    assert compare("nap", "s", ours, "sleep", [4.0, 4.0, 4.0], **budget).met is met


def test_contenders_take_turns() -> None:
    turns = count()
    values = interleave({"a": partial(next, turns), "b": partial(next, turns)}, rounds=2)
    assert values == {"a": [2, 5], "b": [3, 4]}, "0 and 1 belong to the warm-up round"


def test_program_prints_a_table_and_stores_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(strip, "encode_photo", partial(encode_photo, 400, 300))
    monkeypatch.setattr(strip, "ROUND_FACTOR", 1)
    results = tmp_path / "results.json"
    code = benchmarks.main(["strip", "--rounds", "1", "--json", str(results)])
    (row,) = json.loads(results.read_text())["rows"]
    assert (row["work"], row["at_most"], row["met"]) == (
        "lossless strip of a 2 MB JPEG",
        0.02,
        not code,
    )
    assert f"| {row['work']} vs Pillow: decode, encode |" in capsys.readouterr().out


def test_avif_is_skipped_without_sharp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARP_DIR", raising=False)
    [skipped] = avif.measure(rounds=1)
    assert (skipped.reference, isinstance(skipped, Skipped)) == ("sharp, its defaults", True)


def test_chart_has_a_bar_for_us_and_for_each_measured_peer() -> None:
    figures = {"sharp, its defaults": 2.0, "sharp, same effort": 1.0, "bare codecs": 0.7}
    rows = [
        {"work": chart.WORK, "reference": peer, "ours": 0.5, "theirs": theirs, "ratio": 1}
        for peer, theirs in figures.items()
    ]
    rows.append({"work": chart.WORK, "reference": "thumbor, its defaults", "reason": "absent"})
    drawing = ET.fromstring(chart.draw(rows))
    namespace = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in drawing.iter(f"{namespace}text")]
    bars = [int(element.attrib["width"]) for element in drawing.iter(f"{namespace}rect")]
    assert texts[1:] == ["imageprocessor", "0.50", "sharp, same effort", "1.00", "sharp", "2.00"]
    assert [bar / bars[0] for bar in bars] == [1, 2, 4]


def test_absent_peer_is_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_obstacle(node("sharp.mjs")) == "node is not installed"


def test_filters_are_compared_with_lanczos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode_noisy_photo(440, 300))
    monkeypatch.setattr(filters, "WIDTH", 400)
    monkeypatch.setattr(filters, "ROUNDS", 1)
    filters.main([str(photo)])
    _, _, *lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [row[1] for row in rows] == ["lanczos", "bicubic", "hamming", "bilinear"]
    lanczos, bicubic = rows[:2]
    assert (lanczos[3], lanczos[5]) == ("1.000", "1.000"), "its bytes are the reference"
    assert float(bicubic[3]) < 1, "a smoother image needs fewer bytes"
