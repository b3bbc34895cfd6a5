from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import imageprocessor as ip
from imageprocessor.environment import load_settings
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import read_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service
from tests.cli.conftest import Run
from tests.core.test_picture_html import read_image as read_tag
from tests.uploads import submit_to


@pytest.fixture
def service(folder: object) -> Iterator[Service]:
    """The service that the command also opens, with its data in the current folder."""
    with open_service(load_settings({"IMAGE_SIZES": '{"small": 20, "large": 40}'})) as opened:
        yield opened


@pytest.fixture
def send(service: Service) -> Callable[[], Job]:
    return lambda: submit_to(service)


def test_html_of_an_image_is_printed(
    run: Run, service: Service, send: Callable[[], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = send()
    run_job(service, job.job_id, "worker")
    monkeypatch.setenv("PUBLIC_BASE_URL", "https://cdn.test")
    ran = run("html", job.image_id, "--alt", '"Katze"', "--sizes", "9em")
    image = read_tag(ran.out)
    base = f"https://cdn.test/storage/{job.bucket}/processed"
    small, large = (f"{base}/{size}/{job.image_id}_{size}.webp" for size in ("small", "large"))
    assert image["srcset"] == f"{small} 20w, {large} 40w"
    assert (image["alt"], image["sizes"]) == ('"Katze"', "9em")
    metadata = read_image(service, job.image_id, OPERATOR).generated
    result = {"urls": {"small": small, "large": large}, "metadata": metadata}
    assert ran.out == ip.picture_html(result, alt='"Katze"', sizes="9em") + "\n"


def test_image_that_is_not_ready_has_no_html(run: Run, send: Callable[[], Job]) -> None:
    ran = run("html", send().image_id)
    assert (ran.status, ran.out) == (1, "")
    assert "error: " in ran.err


@pytest.mark.parametrize("image_id", ["17", "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"])
def test_unknown_image_is_an_error(run: Run, service: Service, image_id: str) -> None:
    ran = run("html", image_id)
    assert (ran.status, ran.out) == (1, "")
    assert image_id in ran.err
