"""Running commands in forks of one interpreter, which costs much less than an interpreter each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = """
import importlib, json, os, sys
from pathlib import Path
import imageprocessor.cli.app
from imageprocessor.cli import main

request = json.loads(sys.argv[1])
for name in request["modules"]:
    importlib.import_module(name)
for number, command in enumerate(request["commands"]):
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            file = os.open(f"{request['results']}/{number}.{name}", os.O_CREAT | os.O_WRONLY)
            os.dup2(file, descriptor)
        assert not sys.modules.keys() & set(command["missing"])
        sys.modules.update(dict.fromkeys(command["missing"]))
        os.environ.update(command["settings"])
        sys.argv[1:] = command["arguments"]
        main()
        raise AssertionError("the command did not exit")
    _, status = os.waitpid(child, 0)
    Path(f"{request['results']}/{number}.status").write_text(str(os.waitstatus_to_exitcode(status)))
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, the packages that are missing, and settings."""

    arguments: list[str]
    missing: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit status and output of a command."""

    status: int
    out: str
    err: str


def run_forks(
    folder: Path, commands: Sequence[Command], modules: Sequence[str] = ()
) -> list[Ended]:
    """Run the commands in turn, in a new *folder*; import the *modules* once for all of them."""
    results = folder / "results"
    results.mkdir()
    listed = [
        {"arguments": one.arguments, "missing": one.missing, "settings": one.settings}
        for one in commands
    ]
    request = {"modules": list(modules), "commands": listed, "results": str(results)}
    line = [sys.executable, "-c", PROGRAM, json.dumps(request)]
    subprocess.run(line, cwd=folder, check=True, timeout=120)
    ended = []
    for number in range(len(commands)):
        status, out, err = (
            (results / f"{number}.{name}").read_text() for name in ("status", "out", "err")
        )
        ended.append(Ended(int(status), out, err))
    return ended
