from __future__ import annotations

import json
import re
import sys

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


def in_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Make stdout look like a terminal of *width* columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def printed(capsys: pytest.CaptureFixture[str], width: int) -> str:
    """Return what was printed without styles; fail if a line is too long or breaks a word."""
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= width
    known = set(" ".join([*COLUMNS, *ROW]).split())
    assert {word for word in out.split() if word.strip("─")} <= known
    return out


ID = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"
COLUMNS = ("job", "status", "tries", "created", "error")
ROW = (ID, "completed", "3", "2026-11-27 21:40:10", "image_truncated after three rounds")


@pytest.mark.parametrize("width", [36, 40, 44, 55, 60, 70, 80, 90, 100, 120, 200])
def test_words_and_ids_are_never_broken_in_any_terminal_that_is_wide_enough(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    in_terminal(monkeypatch, width)
    print_table(COLUMNS, [ROW], optional=("tries", "created"))
    assert "completed" in printed(capsys, width)
    row = ("completed", ID, "after three rounds")
    print_table(("status", "job", "error"), [row], title="job")
    assert ID in printed(capsys, width)
    print_table(("job", "error"), [("status", f"error={ID}")] * 2)
    assert f"error={ID}"[:width] in capsys.readouterr().out
    print_pairs("job", {"created": ID, "error": ROW[-1]})
    assert ID in printed(capsys, width)


def test_optional_columns_are_left_out_of_a_narrow_terminal_one_by_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for width in (120, 85, 70, 40):
        in_terminal(monkeypatch, width)
        print_table(COLUMNS, [ROW], optional=("tries", "created"))
        out = printed(capsys, width)
        shown[width] = [name for name in COLUMNS if name in out.split()]
    assert shown[120] == list(COLUMNS)
    assert shown[85] == ["job", "status", "created", "error"]
    assert shown[70] == ["job", "status", "error"]
    assert shown[40] == ["status", "tries", "created", "error"], "a record has room for all"


def test_items_of_a_list_have_a_line_each_in_a_terminal_and_share_one_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a", ["card 1 kB", "page 2 kB"])]
    print_table(("file", "results"), rows)
    assert "card 1 kB, page 2 kB" in capsys.readouterr().out
    in_terminal(monkeypatch, 80)
    print_table(("file", "results"), rows)
    assert re.search(r"card 1 kB *\n +page 2 kB *\n", capsys.readouterr().out)


def test_long_path_may_be_broken_but_no_line_is_too_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_terminal(monkeypatch, 60)
    print_table(("file", "notes"), [("photos/" * 20, "Permission denied")])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60 + len("\x1b[1m\x1b[0m" * 4)
    assert "".join(line.split()[0] for line in out.splitlines()[3:-1]) == "photos/" * 20


def test_a_pipe_gets_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("x" * 90, "y" * 90)])
    assert f"{'x' * 90}   {'y' * 90}" in capsys.readouterr().out
