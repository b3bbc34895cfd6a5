from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.exposition import render_metrics
from imageprocessor.queue.metrics.counts import Counts
from imageprocessor.queue.metrics.families import (
    COUNTED,
    PREFIX,
    STATE,
    UPLOAD_BYTES,
    UPLOADS,
    Counter,
)
from imageprocessor.queue.pause import pause
from imageprocessor.queue.service import Service, open_service
from imageprocessor.settings import Settings
from tests.conftest import require_program
from tests.images import encode, photo, truncated
from tests.queue.conftest import Submit

EACH = [PREFIX + metric.name for metric in (*COUNTED, *STATE)]

Samples = dict[tuple[str, frozenset[str]], float]  #: by name and values of the labels


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values = {"data_dir": tmp_path / "data", "image_sizes": {"thumbnail": 20, "medium": 60}}
    return Settings.model_validate({**values, "metrics_port": 1})


def read(page: str) -> Samples:
    """Return the samples of a page as an independent parser reads it."""
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name.removeprefix(PREFIX)
            found[name, frozenset(sample.labels.values())] = sample.value
    return found


def labels(*values: str) -> frozenset[str]:
    return frozenset(values)


def test_page_has_every_metric_with_its_type_and_meaning(service: Service) -> None:
    families = {each.name: each for each in text_string_to_metric_families(render_metrics(service))}
    assert list(families) == EACH
    for metric in COUNTED:
        family = families[PREFIX + metric.name]
        kind = "counter" if isinstance(metric, Counter) else "histogram"
        assert (family.type, family.documentation) == (kind, metric.meaning)


def test_promtool_finds_nothing_to_complain_about(service: Service, submit_image: Submit) -> None:
    run_job(service, submit_image().job_id, "worker")
    command = [require_program("promtool"), "check", "metrics"]
    page = render_metrics(service)
    checked = subprocess.run(command, input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_jobs_their_stages_and_the_state_are_shown(service: Service, submit_image: Submit) -> None:
    run_job(service, submit_image().job_id, "worker")
    damaged = truncated(encode(photo(80, 60), "JPEG"), 0.6)
    run_job(service, submit_image(damaged).job_id, "worker")
    submit_image()
    found = read(render_metrics(service))
    assert found["uploads_total", labels("accepted")] == 3
    assert found["upload_bytes_count", labels()] == 3
    assert found["jobs_total", labels("completed", "")] == 1
    assert found["jobs_total", labels("failed", "image_truncated")] == 1
    assert found["job_duration_seconds_count", labels()] == 1
    stages = ("load", "decode_once", "resize_and_encode", "store", "complete")
    ran = [found["stage_duration_seconds_count", labels(stage)] for stage in stages]
    assert ran == [2, 1, 1, 1, 1]
    operations = {"adopt": 3, "get": 2, "put_all": 1}  # uploads, sources and variants
    for operation, count in operations.items():
        assert found["storage_operation_seconds_count", labels("local", operation)] == count
    assert found["queue_jobs", labels("completed")] == 1
    assert found["queue_jobs", labels("pending")] == 1
    assert 0 < found["oldest_open_job_seconds", labels()] < 600
    assert found["paused", labels()] == 0
    pause(service, None)
    assert read(render_metrics(service))["paused", labels()] == 1
    assert found["database_up", labels()] == 1
    assert found["disk_size_bytes", labels("data")] > found["disk_free_bytes", labels("data")] > 0


def test_every_process_shows_the_same(service: Service, submit_image: Submit) -> None:
    submit_image()
    with open_service(service.settings, creates=False) as other:
        other.counts.add(UPLOADS, "refused")
        pages = [read(render_metrics(each)) for each in (service, other)]
    changing = ("oldest_open_job_seconds", "disk_free_bytes")
    first, second = ({key: page[key] for key in page if key[0] not in changing} for page in pages)
    assert first == second
    assert pages[0]["uploads_total", labels("accepted")] == 1
    assert pages[0]["uploads_total", labels("refused")] == 1


def test_counts_are_shown_while_the_database_is_away(
    service: Service, submit_image: Submit
) -> None:
    submit_image()

    class Away:
        def __getattr__(self, _name: str) -> object:
            raise DatabaseUnavailableError("It is away.")

    found = read(render_metrics(replace(service, database=Away())))  # type: ignore[arg-type]
    assert found["uploads_total", labels("accepted")] == 1
    assert found["database_up", labels()] == 0
    assert not [name for name, _ in found if name == "queue_jobs"]


def test_what_another_version_counts_is_not_shown(service: Service) -> None:
    other = Counts(service.settings.metrics_directory)
    other.add(replace(UPLOADS, name="other"), "accepted")
    other.add(UPLOADS, "accepted", "another label")
    other.observe(replace(UPLOAD_BYTES, bounds=(5,)), 1)
    service.counts.observe(UPLOAD_BYTES, 1)
    other.close()
    found = read(render_metrics(service))
    assert found["upload_bytes_count", labels()] == 1
    assert not [name for name, _ in found if name in {"other_total", "uploads_total"}]


def test_labels_are_escaped(service: Service) -> None:
    value = 'a"b\\c'
    service.counts.add(UPLOADS, value)
    assert read(render_metrics(service))["uploads_total", labels(value)] == 1
