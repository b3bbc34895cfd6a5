from __future__ import annotations

import json

import pytest

from imageprocessor.cli.output import print_error, print_json, print_pairs, print_table

HOSTILE = "\x1b[2J\x9b31m\u202e[red]\udcff"
SHOWN = r"\x1b[2J\x9b31m\u202e[red]\udcff"


def test_tables_show_control_characters_and_markup_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("name",), [(HOSTILE,)], title="t")
    assert SHOWN in capsys.readouterr().out


def test_pairs_show_control_characters_and_markup_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_pairs(HOSTILE, {"value": HOSTILE, "nothing": None})
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 2
    assert "nothing" not in out


def test_errors_keep_their_lines_and_escape_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(f"first\n{HOSTILE}")
    assert capsys.readouterr().err == f"error: first\n{SHOWN}\n"


def test_json_is_ascii_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": HOSTILE}, lines=True)
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == {"name": HOSTILE}


def test_a_pipe_gets_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("x" * 90, "y" * 90)])
    assert f"{'x' * 90}   {'y' * 90}" in capsys.readouterr().out
