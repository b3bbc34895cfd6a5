from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from imageprocessor.cli import output
from imageprocessor.environment import load_settings
from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue import job_search
from imageprocessor.queue.access import OPERATOR, Caller
from imageprocessor.queue.attempts import fail_attempt, run_job
from imageprocessor.queue.batches import BatchUpload, ReceivedFile, submit_batch
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.tables import processing_jobs
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs import batch_store, job_store
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.queue.uploads import Sender
from imageprocessor.queue.webhooks import add_endpoint
from tests.cli.conftest import Run
from tests.images import encode, photo, truncated
from tests.servers import create_database
from tests.uploads import submit_to

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
UNKNOWN = "3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13"


@pytest.fixture
def service(folder: Path, add_sqlite: Callable[[Path], None]) -> Iterator[Service]:
    """The service that the commands also open, with its data in the current folder."""
    add_sqlite(folder / "data")
    with open_service(
        load_settings({"MAX_RETRIES": "0", "IMAGE_SIZES": '{"thumbnail": 20}'})
    ) as opened:
        yield opened


@pytest.fixture
def send(service: Service) -> Callable[..., Job]:
    return partial(submit_to, service)


@pytest.fixture
def bad(service: Service, send: Callable[..., Job]) -> Job:
    """A job that failed because of its file."""
    job = send(truncated(encode(photo(80, 60), "JPEG"), 0.7))
    run_job(service, job.job_id, "worker")
    return job


@pytest.fixture
def unlucky(service: Service, send: Callable[..., Job]) -> Job:
    """A job that failed because of the storage; its upload is kept."""
    job = send()
    with service.database.write() as connection:
        claimed = job_store.claim(
            connection, job.job_id, "worker", job.created_at, job.created_at - job.created_at
        )
    assert claimed
    fail_attempt(service, claimed, StorageUnavailableError("The disk\x1b[2J is offline."))
    return job


def test_list_shows_the_newest_jobs_first(
    run: Run, service: Service, send: Callable[..., Job], bad: Job
) -> None:
    waiting = send(user_id="bob\u202e")
    first, second = run("jobs", "list", "--json").json
    assert (first["job_id"], first["status"], first["attempts"]) == (waiting.job_id, "pending", 0)
    assert (second["job_id"], second["status"], second["error_code"]) == (
        bad.job_id,
        "failed",
        "image_truncated",
    )
    assert [job["job_id"] for job in run("jobs", "list", "--limit", "1", "--json").json] == [
        waiting.job_id
    ]
    assert [job["job_id"] for job in run("jobs", "list", "--status", "failed", "--json").json] == [
        bad.job_id
    ]
    table = run("jobs", "list").out
    assert bad.job_id in table
    assert waiting.job_id in table
    assert r"bob\u202e" in table


def test_list_continues_after_a_page(
    run: Run, service: Service, send: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages neither repeat nor skip a job, even if some were accepted in the same microsecond."""
    monkeypatch.setattr(job_search, "JOBS_PER_PAGE", 2)
    monkeypatch.setattr(output, "ROWS_PER_TABLE", 2)
    ids = [send().job_id for _ in range(7)]
    with service.database.write() as connection:
        first_five = processing_jobs.c.job_id.in_(ids[:5])
        same = clock.to_text(datetime(2024, 1, 1, tzinfo=UTC))
        connection.execute(processing_jobs.update().where(first_five).values(created_at=same))
    newest_first = ids[::-1]
    for status in ([], ["--status", "pending"]):
        listed = run("jobs", "list", "--limit", "9999", "--json", *status).json
        assert [job["job_id"] for job in listed] == newest_first

    ran = run("jobs", "list", "--limit", "5")
    assert re.findall(ID, ran.out) == newest_first[:5]
    option, last = ran.err.split()[-2:]
    assert (option, last.partition("_")[2]) == ("--after", newest_first[4])
    ran = run("jobs", "list", option, last, "--status", "pending")
    assert (re.findall(ID, ran.out), ran.err) == (newest_first[5:], "")
    assert "No jobs like this in" in run("jobs", "list", "--after", last, "--before", "9d").err
    assert run("jobs", "list", "--after", UNKNOWN).status == 1


def test_list_finds_jobs_by_their_fields(
    run: Run, service: Service, send: Callable[..., Job], bad: Job
) -> None:
    avatar = send(user_id="bob", bucket="avatars")
    for options, expected in {
        ("--user", "bob"): [avatar],
        ("--bucket", "avatars"): [avatar],
        ("--code", "image_truncated"): [bad],
        ("--since", "1h", "--user", "ann"): [bad],
        ("--before", "2024-11-08T14:00Z"): [],
    }.items():
        listed = run("jobs", "list", "--json", *options).json
        assert [job["job_id"] for job in listed] == [job.job_id for job in expected], options
    assert run("jobs", "list", "--since", "yesterday").status == 2


def test_empty_list_names_the_database(run: Run, service: Service) -> None:
    ran = run("jobs", "list")
    assert (ran.status, ran.out) == (0, "")
    assert f"No jobs in {service.settings.database_path.resolve()}." in ran.err
    assert run("jobs", "list", "--json").json == []


def test_empty_list_names_the_sqlite_file_of_database_url(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "elsewhere.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    run("db", "upgrade")
    assert f"No failed jobs in {path}." in run("jobs", "list", "--status", "failed").err


def test_empty_list_names_the_postgresql_database_without_its_password(
    run: Run, postgres: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_database(postgres)
    name = url.rpartition("/")[2]
    monkeypatch.setenv("DATABASE_URL", url.replace("postgres@", "postgres:hidden-value@"))
    run("db", "upgrade")
    ran = run("jobs", "list")
    assert f"No jobs in postgresql://postgres@127.0.0.1:{postgres}/{name}." in ran.err
    assert "hidden-value" not in ran.err


def test_unknown_status_is_wrong_usage(run: Run) -> None:
    assert run("jobs", "list", "--status", "lost").status == 2


@pytest.mark.parametrize("name", ["job_id", "image_id"])
def test_show_prints_the_job_and_its_audit_trail(run: Run, bad: Job, name: str) -> None:
    shown = run("jobs", "show", getattr(bad, name), "--json").json
    assert (shown["job"]["job_id"], shown["job"]["source_kept"]) == (bad.job_id, False)
    assert [event["event_type"] for event in shown["events"]] == [
        "upload_initiated",
        "processing_started",
        "failed",
    ]
    text = run("jobs", "show", getattr(bad, name)).out
    assert "image_truncated" in text
    assert "upload_initiated" in text


@pytest.mark.parametrize("name", ["job_id", "image_id"])
def test_show_prints_the_audit_trail_of_a_deleted_image(
    run: Run, service: Service, bad: Job, name: str
) -> None:
    """The trail names the uploader, the request, the worker, the durations and the deleter."""
    delete_image(service, bad.image_id, Caller("bob", admin=True))
    ran = run("jobs", "show", getattr(bad, name), "--json")
    assert (ran.status, ran.json["job"]) == (0, None)
    uploaded, started, failed, deleted = ran.json["events"]
    assert uploaded["metadata"] == {"request_id": None, "by": "ann", "bucket": "photos"}
    assert started["metadata"] == {"attempt": 1, "worker": "worker"}
    assert failed["metadata"] == {"code": "image_truncated", "attempt": 1}
    assert deleted["metadata"] == {"by": "bob"}
    assert {(event["job_id"], event["image_id"]) for event in ran.json["events"]} == {
        (bad.job_id, bad.image_id)
    }
    assert uploaded["seconds_later"] is None
    assert all(0 < event["seconds_later"] < 60 for event in (started, failed, deleted))


def test_show_of_a_deleted_image_says_so(run: Run, service: Service, bad: Job) -> None:
    delete_image(service, bad.image_id, OPERATOR)
    ran = run("jobs", "show", bad.image_id)
    assert "The image was deleted" in ran.err
    assert bad.job_id in ran.out
    line = next(line for line in ran.out.splitlines() if "processing_started" in line)
    assert re.search(r"Z +\+\d+\.\d{3} +processing_started +attempt=1, worker=worker", line)


def test_show_lists_every_attempt_and_its_outcome(run: Run, service: Service, unlucky: Job) -> None:
    run("jobs", "retry", unlucky.job_id)
    run_job(service, unlucky.job_id, "second")
    events = run("jobs", "show", unlucky.image_id, "--json").json["events"]
    outcomes = [
        (event["event_type"], event["metadata"].get("worker"), event["metadata"].get("code"))
        for event in events
    ]
    assert outcomes[1:] == [  # the fixture claimed the first attempt itself, which adds no event
        ("failed", None, "storage_unavailable"),
        ("retry_requested", None, None),
        ("processing_started", "second", None),
        ("completed", None, None),
    ]


def test_show_escapes_control_characters_in_an_error(run: Run, unlucky: Job) -> None:
    ran = run("jobs", "show", unlucky.job_id)
    assert "\x1b" not in ran.out
    assert r"The disk\x1b[2J is offline." in ran.out


def test_show_of_a_batch_prints_its_files(run: Run, service: Service) -> None:
    """A batch id is not taken for that of a deleted image, neither before its end nor after."""
    add_endpoint(service, "shop", "http://127.0.0.1:9/", allows_private=True)
    good = encode(photo(80, 60), "JPEG")
    files = [
        ReceivedFile(name, data, len(data), hashlib.sha256(data).hexdigest())
        for name, data in [("cat.jpg", good), ("dog.jpg", truncated(good, 0.7)), ("a.txt", b"a")]
    ]
    batch, _ = submit_batch(service, BatchUpload(files, "photos"), Sender("ann"))
    shown = run("jobs", "show", batch.batch_id, "--json").json["batch"]
    assert (shown["status"], shown["user_id"]) == ("processing", "ann")
    assert [item["status"] for item in shown["items"]] == ["pending", "pending", "refused"]

    for outcome in batch.outcomes[:2]:
        run_job(service, str(outcome.job_id), "worker")
    shown = run("jobs", "show", batch.batch_id, "--json").json
    assert shown["batch"]["status"] == "completed"
    assert [(item["status"], item["error_code"]) for item in shown["batch"]["items"]] == [
        ("completed", None),
        ("failed", "image_truncated"),
        ("refused", "type_unsupported"),
    ]
    (delivery,) = shown["deliveries"]
    assert delivery["event_type"] == "batch.completed"
    ran = run("jobs", "show", batch.batch_id)
    assert ran.err == ""
    for expected in ("cat.jpg", batch.outcomes[0].job_id, "image_truncated", "shop"):
        assert str(expected) in ran.out

    with service.database.write() as connection:
        batch_store.delete_batch(connection, batch.batch_id)
    assert "The batch is no longer kept" in run("jobs", "show", batch.batch_id).err


@pytest.mark.parametrize("id_", [UNKNOWN, "seven"])
def test_show_of_an_unknown_id_fails(run: Run, service: Service, id_: str) -> None:
    ran = run("jobs", "show", id_)
    assert (ran.status, ran.out) == (1, "")
    assert id_ in ran.err


def test_retry_makes_a_failed_job_pending_and_adds_an_event(
    run: Run, service: Service, unlucky: Job
) -> None:
    ran = run("jobs", "retry", unlucky.job_id, "--json")
    assert (ran.status, ran.json) == (0, [{"job_id": unlucky.job_id, "status": "pending"}])
    assert (
        run("jobs", "show", unlucky.job_id, "--json").json["events"][-1]["event_type"]
        == "retry_requested"
    )
    run_job(service, unlucky.job_id, "worker")
    assert run("jobs", "show", unlucky.job_id, "--json").json["job"]["status"] == "completed"


def test_retry_reports_what_cannot_be_retried_and_retries_the_rest(
    run: Run, bad: Job, unlucky: Job
) -> None:
    ran = run("jobs", "retry", bad.job_id, UNKNOWN, "seven", unlucky.job_id, "--json")
    assert ran.status == 1
    codes = [outcome.get("error_code") for outcome in ran.json]
    assert codes == ["job_not_retryable", "job_not_found", "id_invalid", None]
    again = run("jobs", "retry", unlucky.job_id)
    assert again.status == 1
    assert "pending" in again.out


def test_retry_all_failed_retries_jobs_whose_upload_is_kept(
    run: Run, service: Service, bad: Job, unlucky: Job
) -> None:
    assert run("jobs", "retry", "--all-failed").err == "Jobs retried: 1\n"
    statuses = {job["job_id"]: job["status"] for job in run("jobs", "list", "--json").json}
    assert statuses == {bad.job_id: "failed", unlucky.job_id: "pending"}
    assert run("jobs", "retry", "--all-failed", "--json").json == {"retried": 0, "skipped": 0}
    ran = run("jobs", "retry", "--all-failed")
    assert (ran.status, ran.out) == (0, "")
    assert "No failed job" in ran.err


@pytest.mark.parametrize("arguments", [[], [UNKNOWN, "--all-failed"]])
def test_retry_needs_either_ids_or_all_failed(run: Run, arguments: list[str]) -> None:
    assert run("jobs", "retry", *arguments).status == 2


def test_pause_and_resume_say_what_they_did(run: Run, service: Service, bad: Job) -> None:
    ran = run("jobs", "pause")
    assert (ran.status, ran.out) == (0, "")
    assert "The workers are paused. To resume them: imageprocessor jobs resume" in ran.err
    again = run("jobs", "pause")
    assert (again.status, "already paused since 2" in again.err) == (0, True)

    assert "The workers are paused since" in run("jobs", "list").err
    (finding,) = (each for each in run("doctor", "--json").json if "paused" in each["found"])
    assert (finding["verdict"], finding["fix"]) == ("warning", "imageprocessor jobs resume")

    assert "begin jobs again" in run("jobs", "resume").err
    assert "were not paused" in run("jobs", "resume").err
    assert run("jobs", "list").err == ""
