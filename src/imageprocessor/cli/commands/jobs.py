"""The commands ``jobs …``: list, show, retry; pause and resume the workers."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, read_settings
from imageprocessor.cli.commands.webhooks import parse_since, print_deliveries
from imageprocessor.cli.output import (
    in_pages,
    print_json,
    print_json_items,
    print_note,
    print_pairs,
    print_table,
    show_failure,
    show_status,
    show_time,
)
from imageprocessor.errors import BatchNotFoundError, InvalidIdError, JobError

if TYPE_CHECKING:
    from imageprocessor.queue.batches import BatchProgress
    from imageprocessor.queue.jobs.job import Job
    from imageprocessor.queue.service import Service
    from imageprocessor.settings import Settings

Status = Annotated[
    Literal["pending", "processing", "completed", "failed", "retrying"] | None,
    typer.Option(help="List only jobs with this status."),
]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of jobs to list.")]
After = Annotated[
    str | None,
    typer.Option(
        metavar="CURSOR",
        help="List the jobs after a page, which names its cursor.",
        show_default=False,
    ),
]
User = Annotated[
    str | None,
    typer.Option(metavar="SUB", help="List only this user's jobs.", show_default=False),
]
Bucket = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="List only jobs of this bucket.", show_default=False),
]
Code = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="List only jobs with this error code.", show_default=False),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=parse_since,
        metavar="TIME",
        help="List only jobs accepted since a time such as 2024-11-08T14:00Z, 24h or 7d ago.",
        show_default=False,
    ),
]
Before = Annotated[
    datetime | None,
    typer.Option(
        parser=parse_since,
        metavar="TIME",
        help="List only jobs accepted before a time.",
        show_default=False,
    ),
]
AnyId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The id of a job, an image or a batch.", show_default=False),
]
JobIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID...", help="Ids of failed jobs.", show_default=False),
]
AllFailed = Annotated[
    bool, typer.Option("--all-failed", help="Retry every failed job whose upload is still kept.")
]

jobs = typer.Typer(
    no_args_is_help=True,
    help="List jobs, show a job and its audit trail, retry failed jobs, or pause the workers.",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    jobs.command(name="list")(list_jobs)
    jobs.command()(show)
    jobs.command()(retry)
    jobs.command()(pause)
    jobs.command()(resume)
    app.add_typer(jobs, name="jobs", rich_help_panel=PANEL)


def list_jobs(  # noqa: PLR0913, PLR0917 - each is an option
    status: Status = None,
    user: User = None,
    bucket: Bucket = None,
    code: Code = None,
    since: Since = None,
    before: Before = None,
    limit: Limit = 20,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Example: [bold]imageprocessor jobs list --status failed --since 24h[/bold]
    """
    from imageprocessor.queue.job_search import JobFilter, list_pages
    from imageprocessor.queue.jobs.job import JobStatus
    from imageprocessor.queue.service import open_service

    settings = read_settings(quiet=True)
    wanted = JobFilter(
        status=JobStatus(status) if status else None,
        user_id=user,
        bucket=bucket,
        error_code=code,
        created_after=since,
        created_before=before,
    )
    with open_service(settings, creates=False) as service:
        pages = list_pages(service, wanted, limit, after)
        if as_json:
            print_json_items(describe_job(job) for page in pages for job in page.jobs)
            return
        count, following = 0, None
        for page in pages:
            for rows in in_pages(page.jobs):
                print_table(
                    ("job", "status", "tries", "user", "bucket", "created", "error"),
                    map(_job_row, rows),
                    optional=("tries", "bucket", "user", "created"),
                )
            count, following = count + len(page.jobs), page.following
        if not count:
            kind = f"{status} jobs" if status else "jobs"
            is_any = wanted == JobFilter(status=wanted.status) and after is None
            print_note(f"No {kind}{'' if is_any else ' like this'} in {_name_database(settings)}.")
        elif following:
            print_note(f"To list older jobs, add --after {following}")
        _note_pause(service)


def show(job: AnyId, as_json: AsJson = False) -> None:
    """Show a job and its audit trail: every event, its time and who caused it.

    The trail also shows each attempt and how long each step took. It outlives the
    image: for a deleted image, only the trail is shown. Below it are the webhooks
    that were sent, or are to be sent. For a batch, its files are shown.

    Example: [bold]imageprocessor jobs show 3f2b1c9e-8a4d-4f6b-9c1e-2d7a5b8c0e13[/bold]
    """
    from imageprocessor.queue.access import OPERATOR
    from imageprocessor.queue.batches import read_batch
    from imageprocessor.queue.job_control import parse_id
    from imageprocessor.queue.service import open_service

    id_ = parse_id(job)
    with open_service(read_settings(quiet=True), creates=False) as service:
        try:
            batch = read_batch(service, id_, OPERATOR)
        except BatchNotFoundError:
            show_job(service, id_, as_json=as_json)
        else:
            show_batch(service, batch, as_json=as_json)


def show_job(service: Service, id_: str, *, as_json: bool) -> None:
    """Print a job, by its own id or its image's, its audit trail and its webhooks."""
    from imageprocessor.queue.job_control import read_history
    from imageprocessor.queue.webhooks import list_job_deliveries

    found, trail = read_history(service, id_)
    deliveries = list_job_deliveries(service, found.job_id if found else trail[0]["job_id"])
    if as_json:
        facts = describe_job(found) if found else None
        print_json({"job": facts, "events": trail, "deliveries": deliveries})
        return
    if found:
        facts = describe_job(found)
        # Show these objects as JSON; leave empty ones out.
        for name in ("context", "result", "storage_keys"):
            facts[name] = json.dumps(facts[name]) if facts[name] else None
        print_pairs(f"Job {found.job_id}", facts)
    elif trail[0]["event_type"] == "batch_completed":
        print_note("The batch is no longer kept. Its audit trail:")
    else:
        print_note("The image was deleted. Its audit trail:")
        first = trail[0]
        print_pairs(f"Job {first['job_id']}", {"image_id": first["image_id"]})
    print_table(("when", "seconds later", "event", "details"), map(_event_row, trail))
    if deliveries:
        print_deliveries(deliveries, "endpoint")


def show_batch(service: Service, progress: BatchProgress, *, as_json: bool) -> None:
    """Print a batch, its files and its webhooks."""
    from imageprocessor.queue.webhooks import list_job_deliveries

    facts = describe_batch(progress)
    deliveries = list_job_deliveries(service, progress.batch.batch_id)
    if as_json:
        print_json({"batch": facts, "deliveries": deliveries})
        return
    items = facts.pop("items")
    print_pairs(f"Batch {progress.batch.batch_id}", facts)
    rows = [
        (item["filename"], show_status(item["status"]), item["job_id"], item["error_code"])
        for item in items
    ]
    print_table(("file", "status", "job", "error"), rows)
    if deliveries:
        print_deliveries(deliveries, "endpoint")


def retry(ids: JobIds = None, all_failed: AllFailed = False, as_json: AsJson = False) -> None:
    """Retry failed jobs, with their full number of attempts.

    A job that failed because of a bad file cannot be retried: it has no upload.

    Example: [bold]imageprocessor jobs retry --all-failed[/bold]
    """
    from imageprocessor.queue.service import open_service

    if bool(ids) == all_failed:
        raise typer.BadParameter("give either job ids or --all-failed", param_hint="'ID...'")
    with open_service(read_settings(quiet=True), creates=False) as service:
        if ids:
            _retry_these(service, ids, as_json=as_json)
        else:
            _retry_all(service, as_json=as_json)


def _retry_all(service: Service, *, as_json: bool) -> None:
    """Retry every failed job whose upload is kept."""
    from imageprocessor.queue.job_search import JobFilter, retry_matching

    outcome = retry_matching(service, JobFilter(), by=None, seconds=math.inf)
    if as_json:
        print_json({"retried": outcome.retried, "skipped": outcome.skipped})
    elif outcome.retried:
        print_note(f"Jobs retried: {outcome.retried}")
    else:
        print_note("No failed job has an upload that is still kept.")


def _retry_these(service: Service, ids: Iterable[str], *, as_json: bool) -> None:
    """Retry the jobs, and print each outcome; exit with 1 if any was refused."""
    tally: Counter[str] = Counter()
    outcomes = _retry_each(service, ids, tally)
    if as_json:
        print_json_items(outcomes)
    else:
        for page in in_pages(outcomes):
            print_table(("job", "outcome"), map(_outcome_row, page))
    if tally["refused"]:
        raise typer.Exit(1)


def _retry_each(
    service: Service, ids: Iterable[str], tally: Counter[str]
) -> Iterator[dict[str, str]]:
    """Retry the jobs; yield each outcome, and count it in *tally*."""
    for job_id in ids:
        outcome = _retry(service, job_id)
        tally["refused" if "error" in outcome else "retried"] += 1
        yield outcome


def _retry(service: Service, job_id: str) -> dict[str, str]:
    """Retry one job; return its new status, or why it was refused."""
    from imageprocessor.queue.job_control import retry_job

    try:
        job = retry_job(service, job_id)
    except (InvalidIdError, JobError) as error:
        return {"job_id": job_id, "error": str(error), "error_code": error.code}
    return {"job_id": job_id, "status": job.status.value}


def pause() -> None:
    """Pause the workers of all hosts: no job begins until they are resumed.

    Uploads are accepted, and their jobs wait. Running jobs end.

    Example: [bold]imageprocessor jobs pause[/bold]
    """
    from imageprocessor.queue.pause import pause as pause_workers
    from imageprocessor.queue.pause import read_pause
    from imageprocessor.queue.service import open_service

    with open_service(read_settings(quiet=True), creates=False) as service:
        if pause_workers(service, by=None):
            print_note("The workers are paused. To resume them: imageprocessor jobs resume")
        else:
            print_note(f"The workers are already {read_pause(service)}.")


def resume() -> None:
    """Let paused workers begin jobs again.

    Example: [bold]imageprocessor jobs resume[/bold]
    """
    from imageprocessor.queue.pause import resume as resume_workers
    from imageprocessor.queue.service import open_service

    with open_service(read_settings(quiet=True), creates=False) as service:
        if resume_workers(service, by=None):
            print_note("The workers begin jobs again.")
        else:
            print_note("The workers were not paused.")


def _note_pause(service: Service) -> None:
    """Print a note if the workers are paused."""
    from imageprocessor.queue.pause import read_pause

    if paused := read_pause(service):
        print_note(f"The workers are {paused}. To resume them: imageprocessor jobs resume")


def describe_job(job: Job) -> dict[str, Any]:
    """Return what an operator may want to know about a job, ready for JSON; None if unknown."""
    state = {
        "job_id": job.job_id,
        "image_id": job.image_id,
        "status": job.status.value,
        "attempts": job.attempts,
        "max_retries": job.max_retries,
        "user_id": job.user_id,
        "bucket": job.bucket,
    }
    times = {
        "created_at": show_time(job.created_at),
        "started_at": show_time(job.started_at),
        "completed_at": show_time(job.completed_at),
        "next_attempt_at": show_time(job.next_attempt_at),
    }
    storage_keys = dict(job.variant_keys) if job.variant_keys else None
    details = {
        "error_code": job.error_code,
        "error": job.error,
        "source_kept": job.staging_key is not None,
        "worker_id": job.worker_id,
        "request_id": job.request_id,
        "webhook": job.webhook,
        "context": job.context,
        "result": job.generated,
        "storage_keys": storage_keys,
    }
    return {**state, **times, **details}


def describe_batch(progress: BatchProgress) -> dict[str, Any]:
    """Return what an operator may want to know about a batch, ready for JSON."""
    batch = progress.batch
    items = []
    for outcome in batch.outcomes:
        job = progress.jobs.get(outcome.job_id) if outcome.job_id else None
        source = job or outcome
        item = {
            "filename": outcome.filename,
            "status": progress.describe_status(outcome),
            "job_id": outcome.job_id,
            "image_id": outcome.image_id,
            "error_code": source.error_code,
            "error": source.error,
        }
        items.append(item)
    return {
        "batch_id": batch.batch_id,
        "status": "completed" if batch.completed_at else "processing",
        "user_id": batch.user_id,
        "bucket": batch.bucket,
        "created_at": show_time(batch.created_at),
        "completed_at": show_time(batch.completed_at),
        "webhook": batch.webhook,
        "items": items,
    }


def _name_database(settings: Settings) -> str:
    from imageprocessor.queue.database.postgres import name_database

    if settings.sqlite_path:
        return str(settings.sqlite_path.resolve())
    assert settings.database_url
    return name_database(settings.database_url.get_secret_value())


def _job_row(job: Job) -> tuple[object, ...]:
    status = show_status(job.status.value)
    created = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
    return job.job_id, status, job.attempts, job.user_id, job.bucket, created, job.error_code


def _event_row(event: dict[str, Any]) -> tuple[object, ...]:
    facts = dict(event["metadata"])
    facts |= facts.pop("steps", None) or {}  # the seconds of each
    known = [f"{name}={value}" for name, value in facts.items() if value is not None]
    details = ", ".join(known)
    later = event["seconds_later"]
    seconds = "" if later is None else f"{later:+.3f}"
    return event["created_at"], seconds, event["event_type"], details


def _outcome_row(outcome: dict[str, str]) -> tuple[object, ...]:
    if "error" in outcome:
        return outcome["job_id"], show_failure(outcome["error"])
    return outcome["job_id"], show_status(outcome["status"])
