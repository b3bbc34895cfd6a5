"""Pages and streams of events, on SQLite and, for what differs there, on PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from sqlalchemy import Connection, text
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service, open_service
from imageprocessor.server.events import stream as event_stream
from imageprocessor.server.events.poller import EventPoller
from imageprocessor.settings import Settings
from tests.conftest import require_program
from tests.server.live import get, serve
from tests.servers import create_database
from tests.servers.processes import wait_for
from tests.uploads import submit_to

EVENTS = "/api/v1/events"
ACCEPTED, COMPLETED, DELETED = "image.accepted", "image.completed", "image.deleted"
Token = Callable[..., dict[str, str]]


def job_events(job: Job) -> str:
    return f"/api/v1/images/jobs/{job.job_id}/events"


@dataclass(frozen=True, slots=True)
class Received:
    """One event of a stream."""

    cursor: str
    event_type: str
    body: dict[str, Any]


@dataclass(slots=True)
class Stream:
    """An open event stream."""

    response: HTTPResponse
    comments: list[str] = field(default_factory=list)

    def read(self) -> Received | None:
        """Return the next event, or None at the end."""
        fields: dict[str, str] = {}
        while line := self.response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if not name and value:
                self.comments.append(value)
            elif name:
                fields[name] = value
            elif fields:
                return Received(fields["id"], fields["event"], json.loads(fields["data"]))
        return None

    def read_rest(self) -> list[Received]:
        return list(iter(self.read, None))


@contextmanager
def follow(port: int, path: str, **headers: str) -> Iterator[Stream]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Accept": "text/event-stream", **names})
        yield Stream(connection.getresponse())
    finally:
        connection.close()


def make_image(service: Service, user_id: str = "ann") -> Job:
    job = submit_to(service, user_id=user_id)
    run_job(service, job.job_id, "test")
    return job


def types_of(received: list[Received]) -> list[str]:
    return [one.event_type for one in received]


def test_owner_reads_pages_of_own_events_and_an_admin_of_all(
    client: TestClient, service: Service, token: Token
) -> None:
    ours, theirs = make_image(service, "ann"), make_image(service, "bob")

    def read(user: str, after: str | None = None, limit: int = 2, *, admin: bool = False) -> Any:
        query = {"limit": limit} | ({"after": after} if after else {})
        headers = token(user, admin=admin)
        return client.get(EVENTS, params=query, headers=headers).raise_for_status().json()

    page = read("ann")
    assert [event["type"] for event in page["events"]] == [ACCEPTED, COMPLETED]
    assert {event["job_id"] for event in page["events"]} == {ours.job_id}
    assert page["events"][1]["urls"]["medium"].startswith("/storage/photos/")
    assert "context" in page["events"][0]
    rest = read("ann", page["next"])
    assert rest["events"] == []
    assert read("ann", rest["next"]) == rest
    assert {event["job_id"] for event in read("bob")["events"]} == {theirs.job_id}
    assert read("carol")["events"] == []

    every = []
    after = None
    while found := (page := read("root", after, limit=3, admin=True))["events"]:
        every += found
        after = page["next"]
    assert [event["job_id"] for event in every] == [ours.job_id] * 2 + [theirs.job_id] * 2


def test_page_of_a_job_has_its_context_only_for_its_owner(
    client: TestClient, upload: Callable[..., Any], run: Callable[[str], None], token: Token
) -> None:
    job_id = upload(fields={"metadata": '{"album": "secret"}'}).json()["job_id"]
    run(job_id)
    path = f"/api/v1/images/jobs/{job_id}/events"
    anyone = client.get(path).json()["events"]
    owner = client.get(path, headers=token()).json()["events"]
    assert [event["type"] for event in anyone] == [ACCEPTED, COMPLETED]
    assert all("context" not in event for event in anyone)
    assert [event.pop("context") for event in owner] == [{"album": "secret"}] * 2
    assert owner == anyone


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("settings", [{"public_reads": False}], indirect=True)
def test_events_of_others_are_not_found(
    client: TestClient, service: Service, token: Token, accept: str
) -> None:
    job = make_image(service)
    headers = {"Accept": accept}
    assert client.get(EVENTS, headers=headers).status_code == 401
    assert client.get(job_events(job), headers=headers).status_code == 401
    other = client.get(job_events(job), headers=headers | token("bob"))
    assert (other.status_code, other.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"params": {"after": "x"}}, (422, "cursor_invalid")),
        ({"headers": {"Last-Event-ID": "x"}, "params": {"after": "0-0"}}, (422, "cursor_invalid")),
        ({"params": {"limit": 0}}, (422, "request_invalid")),
        ({"params": {"limit": 501}}, (422, "request_invalid")),
        ({"params": {"after": "0-999999"}}, (410, "cursor_expired")),
    ],
)
def test_wrong_cursors_are_refused(
    client: TestClient,
    image: dict[str, str],
    token: Token,
    accept: str,
    sent: dict[str, dict[str, str]],
    expected: tuple[int, str],
) -> None:
    headers = {"Accept": accept, **token(), **sent.get("headers", {})}
    for path in (EVENTS, f"/api/v1/images/jobs/{image['job_id']}/events"):
        answer = client.get(path, params=sent.get("params"), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == expected


def test_stream_of_a_job_has_its_past_and_ends_with_it(
    settings: Settings, service: Service, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with serve(settings) as port:
        with follow(port, job_events(job)) as stream:
            headers = dict(stream.response.getheaders())
            first = stream.read()
            assert first is not None
            run_job(service, job.job_id, "test")
            rest = stream.read_rest()
        assert first.event_type == ACCEPTED
        assert types_of(rest) == [COMPLETED]
        assert rest[0].body["urls"]
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"

        with follow(port, job_events(job), Last_Event_ID=first.cursor) as stream:
            assert stream.read_rest() == rest, "the job has ended: at once"
        with follow(port, job_events(job), Last_Event_ID=rest[0].cursor) as stream:
            assert stream.response.status == 204, "a browser stops here"
        wait_for(lambda: pollers[-1]._task is None)


def test_stream_of_a_user_begins_now_and_resumes_without_loss_or_repeat(
    settings: Settings, service: Service, token: Token, pollers: list[EventPoller]
) -> None:
    make_image(service)
    with serve(settings) as port:
        with follow(port, EVENTS, **token()) as stream:
            wait_for(lambda: pollers[-1].stream_count)
            wait_for(lambda: pollers[-1]._task)
            make_image(service, "bob")
            job = make_image(service)
            seen = [stream.read(), stream.read()]
        missed = make_image(service)
        make_image(service, "bob")
        assert seen[0] is not None
        with follow(port, f"{EVENTS}?after=0-0", Last_Event_ID=seen[0].cursor, **token()) as stream:
            again = [stream.read() for _ in range(3)]
            delete_image(service, job.image_id, OPERATOR)
            last = stream.read()
    assert [one.body["job_id"] for one in seen if one] == [job.job_id] * 2
    assert again[0] == seen[1]
    assert [one.body["job_id"] for one in again[1:] if one] == [missed.job_id] * 2
    assert last is not None
    assert last.event_type == DELETED
    cursors = [one.cursor for one in (*seen, *again[1:], last) if one]
    assert len(set(cursors)) == len(cursors) == 5


def test_admin_follows_everything(
    settings: Settings, service: Service, token: Token, pollers: list[EventPoller]
) -> None:
    with serve(settings) as port:
        with follow(port, f"{EVENTS}?after=0-0", **token(admin=True)) as stream:
            jobs = [make_image(service, user_id) for user_id in ("ann", "bob")]
            received = [stream.read() for _ in range(4)]
        wait_for(lambda: pollers[-1].stream_count == 0)
    expected = [job.job_id for job in jobs for _ in range(2)]
    assert [one.body["job_id"] for one in received if one] == expected


def test_curl_follows_a_job(settings: Settings, service: Service) -> None:
    curl = require_program("curl")
    job = submit_to(service)
    with serve(settings) as port:
        command = [curl, "-sN", "-H", "Accept: text/event-stream"]
        url = f"http://127.0.0.1:{port}{job_events(job)}"
        with subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline().startswith("id: ")
            run_job(service, job.job_id, "test")
            rest = process.stdout.read()
    assert process.returncode == 0
    assert f"event: {COMPLETED}\ndata: {{" in rest


def test_slow_reader_gets_every_event_and_holds_few(
    settings: Settings,
    service: Service,
    token: Token,
    pollers: list[EventPoller],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "MAX_QUEUED", 3)
    longest = 0
    receive = event_stream.EventStream.receive

    def measure(self: event_stream.EventStream, event: Any) -> None:
        nonlocal longest
        receive(self, event)
        longest = max(longest, len(self._queue))

    monkeypatch.setattr(event_stream.EventStream, "receive", measure)
    with serve(settings) as port, follow(port, f"{EVENTS}?after=0-0", **token()) as stream:
        wait_for(lambda: pollers[-1]._task)
        with service.database.write() as connection:  # a burst: one poll finds all of them
            for number in range(20):
                add_event(connection, number)
        received = [stream.read() for _ in range(20)]
        made = submit_to(service)
        last = stream.read()
    assert [one.body["job_id"] for one in received if one] == [f"job-{n}" for n in range(20)]
    assert last is not None
    assert last.body["job_id"] == made.job_id
    assert longest <= 3


def add_event(connection: Connection, number: int) -> None:
    """Add an event of a job that is deleted now."""
    statement = text(
        "INSERT INTO image_upload_events"
        " (id, event_type, image_id, job_id, metadata, created_at, user_id, bucket) VALUES"
        " (:id, 'deleted', 'image', :job_id, '{}', '2026-11-28T00:00:00.000000Z', 'ann', 'photos')"
    )
    connection.execute(statement, {"id": f"event-{number}", "job_id": f"job-{number}"})


def test_quiet_stream_is_kept_alive_by_comments(
    settings: Settings, service: Service, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    with serve(settings) as port, follow(port, EVENTS, **token()) as stream:
        lines = [stream.response.readline() for _ in range(4)]
        assert lines == [b": ping\n", b"\n"] * 2


def test_stream_ends_after_a_while_so_that_the_token_is_checked_again(
    settings: Settings, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MAX_STREAM_SECONDS", 0.1)
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    with serve(settings) as port, follow(port, EVENTS, **token()) as stream:
        assert stream.read_rest() == []


@pytest.mark.parametrize("settings", [{"max_event_streams": 1}], indirect=True)
def test_too_many_streams_are_refused(
    settings: Settings, service: Service, token: Token, pollers: list[EventPoller]
) -> None:
    with serve(settings) as port:
        with follow(port, EVENTS, **token()):
            wait_for(lambda: pollers[-1].stream_count)
            with follow(port, EVENTS, **token()) as second:
                problem = json.loads(second.response.read())
                retry_after = second.response.getheader("Retry-After")
            assert get(port, EVENTS, **token())[0].status == 200, "pages are read as ever"
        assert (problem["status"], problem["code"]) == (503, "stream_count_exceeded")
        assert retry_after == "5"
        wait_for(lambda: pollers[-1].stream_count == 0, 5)
        with follow(port, EVENTS, **token()) as third:
            assert third.response.status == 200


def test_streams_end_at_once_when_the_server_stops(
    settings: Settings, service: Service, token: Token, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack, capture_logs() as logs:
        with serve(settings, finish_seconds=5) as port:
            of_user = stack.enter_context(follow(port, EVENTS, **token()))
            of_job = stack.enter_context(follow(port, job_events(job)))
            ends = [pool.submit(stream.read_rest) for stream in (of_user, of_job)]
            wait_for(lambda: pollers[-1].stream_count == 2)
            stopped = time.monotonic()
        seconds = time.monotonic() - stopped
        assert [types_of(end.result(1)) for end in ends] == [[], [ACCEPTED]]
    assert seconds < 2.5
    assert [entry["status"] for entry in logs if entry["event"] == "request"] == [200, 200]


def test_no_stream_begins_while_the_server_stops(
    settings: Settings, token: Token, pollers: list[EventPoller]
) -> None:
    with serve(settings) as port:
        pollers[-1].stop()
        answer, _ = get(port, EVENTS, Accept="text/event-stream", **token())
    assert (answer.status, answer.getheader("Retry-After")) == (503, "5")


@pytest.fixture
def on_postgres(
    make_settings: Callable[..., Settings], postgres: int
) -> Iterator[tuple[Settings, Service]]:
    settings = make_settings(database_url=create_database(postgres))
    with open_service(settings) as service:
        yield settings, service


def test_long_transaction_delays_a_job_by_a_second_at_most(
    on_postgres: tuple[Settings, Service], pollers: list[EventPoller]
) -> None:
    settings, service = on_postgres
    job, quick = submit_to(service), submit_to(service)
    with serve(settings) as port:
        with follow(port, job_events(quick)) as stream:
            assert types_of([one for one in [stream.read()] if one]) == [ACCEPTED]
            run_job(service, quick.job_id, "test")
            assert types_of(stream.read_rest()) == [COMPLETED]
        with ThreadPoolExecutor(1) as pool, service.database.write() as connection:
            connection.execute(text("SELECT pg_current_xact_id()"))
            waits = pool.submit(get, port, f"/api/v1/images/jobs/{job.job_id}?wait=20")
            with follow(port, job_events(job)) as stream:
                wait_for(lambda: pollers[-1].wait_count and pollers[-1].stream_count)
                run_job(service, job.job_id, "test")
                ended = time.monotonic()
                assert types_of(stream.read_rest()) == [ACCEPTED, COMPLETED]
                assert json.loads(waits.result(10)[1])["status"] == "completed"
                assert time.monotonic() - ended < 4
