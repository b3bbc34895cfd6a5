"""What the processes of a service load when they start: no more than they need."""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module
from subprocess import run

import pytest

from imageprocessor.collector import collector_paused

EXTRAS = {"alembic", "boto3", "celery", "redis", "psycopg", "sqlalchemy.dialects.postgresql"}
FRAMEWORK = {"fastapi", "starlette", "jwt", "typer"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("imageprocessor.queue.workers.worker", EXTRAS | FRAMEWORK | {"uvicorn"}),
        # With --api-processes 2, the first process only supervises.
        ("imageprocessor.cli.serving", {*EXTRAS, "fastapi", "jwt"}),
        ("imageprocessor.server.app", EXTRAS | {"jinja2", "imageprocessor.server.routes.webhooks"}),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, unwanted: set[str]) -> None:
    code = f"import {module}, json, sys; print(json.dumps(list(sys.modules)))"
    ran = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(ran.stdout))
    assert module in loaded
    assert loaded & unwanted == set()


def test_the_collector_is_paused_while_modules_load_also_if_one_is_missing() -> None:
    paused = []

    def load() -> None:
        with collector_paused():
            paused.append(not gc.isenabled())
            import_module("no_such_module")

    frozen = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError):
        load()
    assert paused == [True]
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()
