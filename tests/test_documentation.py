"""The documentation tells the truth: its examples run, its links lead somewhere, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# An example after the comment "<!-- not run: REASON -->" must only be valid Python.
EXAMPLE = re.compile(
    r"(?P<not_run><!-- not run: [^>]+ -->\n\s*)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
NAMED_FILE = re.compile(r"`((?:src|tests|docs)/[\w./-]+)`")
COMMAND = re.compile(r"^ *(?:\$ )?(?:\.venv/bin/)?imageprocessor (?P<name>[a-z-]+)(?P<rest>.*)", re.MULTILINE)
OPTION = re.compile(r"(?<=\s)--[a-z-]+")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])


@each_document
def test_python_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (1600, 1200), "steelblue").save("photo.jpg")
    names: dict[str, object] = {}
    text = document.read_text(encoding="utf-8")
    for example in EXAMPLE.finditer(text):
        line = text.count("\n", 0, example.start("code"))
        code = re.sub(rf"^{example['indent']}", "", example["code"], flags=re.MULTILINE)
        program = compile("\n" * line + code, str(document), "exec")
        if not example["not_run"]:
            exec(program, names)


@each_document
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = {document.parent / target for target in LINK.findall(text)}
    named = {ROOT / path for path in NAMED_FILE.findall(text) if "NAME" not in path}
    assert [str(path) for path in sorted(linked | named) if not path.exists()] == []


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    for command in COMMAND.finditer(document.read_text(encoding="utf-8")):
        ran = subprocess.run(
            [sys.executable, "-m", "imageprocessor", command["name"], "--help"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        )
        assert ran.returncode == 0, f"{command[0]}: {ran.stderr}"
        unknown = set(OPTION.findall(command["rest"])) - set(re.findall(r"--[a-z-]+", ran.stdout))
        assert not unknown, f"{command[0]}: unknown {unknown}"
