"""Each promise in SECURITY.md and docs/reliability.md names a test, and that test exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECURITY, RELIABILITY = (ROOT / name for name in ("SECURITY.md", "docs/reliability.md"))
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
LIKE_A_TEST = re.compile(r"\btest_\w+(?!\w*\.py)")
STRIDE = [
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation",
]


@cache
def list_tests(path: Path) -> set[str]:
    """Return the names of the tests in the file at *path*, if it exists."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def split_sections(document: Path, heading: str) -> dict[str, str]:
    """Return the text below each heading of one level, by title."""
    parts = re.split(rf"^{heading} (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def list_threats() -> list[str]:
    rows = re.findall(r"^\| .+ \|$", split_sections(SECURITY, "##")["Threats"], re.MULTILINE)
    return [row for row in rows if not row.startswith(("| Threat |", "| --- |"))]


@pytest.mark.parametrize("document", [SECURITY, RELIABILITY], ids=lambda path: path.name)
def test_every_named_test_exists(document: Path) -> None:
    named = NAMED.findall(document.read_text(encoding="utf-8"))
    assert named
    assert [f"{path}::{name}" for path, name in named if name not in list_tests(ROOT / path)] == []


@pytest.mark.parametrize("document", [SECURITY, RELIABILITY], ids=lambda path: path.name)
def test_every_test_name_is_checked(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    checked = {name for _, name in NAMED.findall(text)} | {
        Path(path).stem for path, _ in NAMED.findall(text)
    }
    assert set(LIKE_A_TEST.findall(text)) <= checked


def test_the_threats_are_those_of_stride() -> None:
    headings = list(split_sections(SECURITY, "###"))
    assert [
        heading
        for heading, kind in zip(headings, STRIDE, strict=True)
        if not heading.startswith(kind)
    ] == []


@pytest.mark.parametrize("threat", list_threats(), ids=lambda row: row.split("|")[1].strip()[:50])
def test_each_threat_names_a_test(threat: str) -> None:
    assert NAMED.search(threat)


@pytest.mark.parametrize("number", range(1, 11))
def test_each_invariant_names_a_test(number: int) -> None:
    (text,) = [
        text
        for title, text in split_sections(RELIABILITY, "##").items()
        if title.startswith(f"I{number}:")
    ]
    assert NAMED.search(text)
