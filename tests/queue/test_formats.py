"""Images whose sizes have several formats: stored, described, compared, copied and deleted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from imageprocessor.core.pipeline import process
from imageprocessor.errors import UnknownSizeError
from imageprocessor.queue.access import ANYONE, OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import delete_image, find_file, read_image, read_images
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.description import describe_result
from imageprocessor.queue.jobs.inventory import iterate_variants
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.maintenance import sweep as sweep_module
from imageprocessor.queue.maintenance.fsck import find_discrepancies
from imageprocessor.queue.maintenance.storage_migration import list_objects, migrate
from imageprocessor.queue.service import Service
from imageprocessor.settings import Settings
from imageprocessor.storage.local import LocalStorage
from tests.images import encode, photo
from tests.queue.conftest import Submit

JPEG = encode(photo(80, 60), "JPEG")
SIZES = {
    "thumbnail": {"width": 20, "format": "webp"},
    "medium": {"width": 60, "formats": ["avif", "webp", "jpeg"]},
    "icon": {"width": 30, "height": 30, "fit": "cover", "format": "png"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path / "data", "image_sizes": SIZES})


@pytest.fixture
def done(service: Service, submit_image: Submit) -> Job:
    job = submit_image(JPEG)
    run_job(service, job.job_id, "worker")
    return read_job(service, job.job_id, OPERATOR)


def list_keys(service: Service) -> set[str]:
    return {stored.key for stored in service.storage.list()}


def test_every_file_of_every_size_is_stored_under_its_suffix(service: Service, done: Job) -> None:
    folder, image_id = "photos/processed", done.image_id
    assert done.variant_keys == {
        "thumbnail": f"{folder}/thumbnail/{image_id}_thumbnail.webp",
        "medium": f"{folder}/medium/{image_id}_medium.avif",
        "medium.webp": f"{folder}/medium/{image_id}_medium.webp",
        "medium.jpeg": f"{folder}/medium/{image_id}_medium.jpg",
        "icon": f"{folder}/icon/{image_id}_icon.png",
    }
    assert list_keys(service) == set(done.variant_keys.values())
    expected = process(JPEG, service.settings.image_sizes)
    for name, key in done.variant_keys.items():
        assert service.storage.get(key) == expected.files[name].data
        assert done.describe_file(name) == expected.files[name].describe()
        with Image.open(BytesIO(expected.files[name].data)) as opened:
            assert opened.format in {"AVIF", "WEBP", "JPEG", "PNG"}


def test_result_has_the_url_of_each_file(done: Job) -> None:
    result = describe_result(done, "https://cdn.test")
    prefix = "https://cdn.test/storage/photos/processed"
    image_id = done.image_id
    assert result["urls"] == {
        "thumbnail": f"{prefix}/thumbnail/{image_id}_thumbnail.webp",
        "medium": f"{prefix}/medium/{image_id}_medium.avif",
        "icon": f"{prefix}/icon/{image_id}_icon.png",
    }
    alternates = result["metadata"]["variants"]["medium"]["alternates"]
    assert [(each["format"], each["url"]) for each in alternates] == [
        ("webp", f"{prefix}/medium/{image_id}_medium.webp"),
        ("jpeg", f"{prefix}/medium/{image_id}_medium.jpg"),
    ]
    assert alternates[0].keys() == {
        "format",
        "url",
        "width",
        "height",
        "aspect_ratio",
        "size_bytes",
    }
    assert "alternates" not in result["metadata"]["variants"]["icon"]


def test_srcset_has_the_sizes_of_the_whole_image_by_type(done: Job) -> None:
    medium = f"/storage/photos/processed/medium/{done.image_id}_medium"
    thumbnail = f"/storage/photos/processed/thumbnail/{done.image_id}_thumbnail"
    assert describe_result(done, "")["srcset"] == {
        "image/avif": f"{medium}.avif 60w",
        "image/webp": f"{thumbnail}.webp 20w, {medium}.webp 60w",
        "image/jpeg": f"{medium}.jpg 60w",
    }
    assert next(iter(describe_result(done, "")["srcset"])) == "image/avif"


def test_srcset_has_one_url_for_each_width(done: Job) -> None:
    result = process(JPEG)  # no size is larger than the source
    keys = {name: f"{name}.webp" for name in result.files}
    job = replace(done, generated=result.describe(), variant_keys=keys)
    assert describe_result(job, "")["srcset"] == {"image/webp": "/storage/thumbnail.webp 80w"}


def test_result_of_an_older_version_has_no_srcset(done: Job) -> None:
    generated = {**(done.generated or {})}
    del generated["responsive"]
    assert describe_result(replace(done, generated=generated), "")["srcset"] == {}


def test_alternates_are_no_sizes(service: Service, done: Job) -> None:
    with pytest.raises(UnknownSizeError, match=r"Its sizes are thumbnail, medium, icon\."):
        read_image(service, done.image_id, ANYONE, "medium.webp")
    assert read_images(service, [done.image_id], ANYONE, "medium.webp") == ([], [done.image_id])


def test_file_is_found_by_size_and_format(done: Job) -> None:
    assert find_file(done, "medium", None) == find_file(done, "medium", "avif") == "medium"
    assert find_file(done, "medium", "jpeg") == "medium.jpeg"
    with pytest.raises(UnknownSizeError, match=r"has no format 'png'\. It has avif, webp, jpeg"):
        find_file(done, "medium", "png")


def test_deletion_removes_every_file(service: Service, done: Job) -> None:
    delete_image(service, done.image_id, OPERATOR)
    assert list_keys(service) == set()


def test_fsck_misses_and_sweep_keeps_every_file(
    service: Service, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "OBJECT_GRACE", timedelta(days=-1))
    assert list(find_discrepancies(service)) == []
    assert list(sweep_module.find_orphaned_images(service)) == []
    key = (done.variant_keys or {})["medium.jpeg"]
    stray = key.replace("_medium.jpg", "_medium.png")
    service.storage.put(stray, service.storage.get(key))
    service.storage.delete(key)
    found = {each.kind: each.where for each in find_discrepancies(service)}
    assert found == {"variant_without_row": stray, "variant_missing": key}


def test_every_file_is_backed_up_and_migrated(service: Service, done: Job, tmp_path: Path) -> None:
    keys = set((done.variant_keys or {}).values())
    assert {key for found in iterate_variants(service.database) for key in found} == keys
    sources = service.storage, service.staging
    assert {stored.key for _, stored in list_objects(sources)} == keys
    target = LocalStorage(tmp_path / "new")
    copied = {each.stored.key for each in migrate(sources, (target, target)) if each.copied}
    assert copied == keys
