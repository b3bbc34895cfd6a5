"""The capacity page and its model agree."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("capacity")


def test_page_shows_the_tables_of_the_model(model: ModuleType) -> None:
    page = (DOCS / "capacity.md").read_text(encoding="utf-8")
    for make_table in (model.describe_sites, model.describe_growth):
        assert make_table(model.Image()) in page, "run: python docs/capacity.py"


def test_examples_of_the_model_run(model: ModuleType) -> None:
    results = doctest.testmod(model)
    assert (results.failed, results.attempted) == (0, 1)


def test_sqlite_is_full_first_if_jobs_cost_nothing(model: ModuleType) -> None:
    image = model.Image(
        job_cpu_seconds=0, upload_cpu_seconds=0, polls=0, upload_bytes=0, variant_bytes=0
    )
    uses = model.list_uses(image, model.Site(1, 1))
    assert model.rank(uses)[0][0] == "SQLite"
    assert model.images_a_day(image, model.Site(1, 1)) == pytest.approx(700 / 2 * 86_400 / 3)
