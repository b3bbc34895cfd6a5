"""Requests that wait for their job, sent to a real server while jobs end in other threads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median
from typing import Any

import pytest
from structlog.testing import capture_logs

from imageprocessor.errors import DatabaseUnavailableError
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.attempts import run_job
from imageprocessor.queue.events import feed
from imageprocessor.queue.images import delete_image
from imageprocessor.queue.jobs.job import Job
from imageprocessor.queue.service import Service
from imageprocessor.server.events import waiting
from imageprocessor.server.events.poller import EventPoller
from imageprocessor.server.schemas import ACCEPTED
from imageprocessor.settings import Settings
from tests.images import encode, photo, truncated
from tests.server.live import form_body, get, serve, upload_head, wire
from tests.servers.processes import wait_for
from tests.uploads import list_all_jobs, submit_to

JOBS = "/api/v1/images/jobs"
Token = Callable[..., dict[str, str]]
Ask = Callable[..., "Future[Any]"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as opened:
        yield opened


def is_waiting(pollers: list[EventPoller], count: int = 1) -> bool:
    return pollers[-1].wait_count == count


def finish(service: Service, job: Job) -> float:
    """Run a job, and return when it had ended."""
    run_job(service, job.job_id, "test")
    return time.monotonic()


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], Any, float]:
    """Return status, headers, body and time of an answer."""
    response, body = get(port, path, **headers)
    sent = {name.lower(): value for name, value in response.getheaders()}
    return response.status, sent, json.loads(body), time.monotonic()


def test_status_and_result_are_answered_when_the_job_ends(
    settings: Settings, service: Service, pool: ThreadPoolExecutor, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with serve(settings) as port:
        state = pool.submit(ask, port, f"{JOBS}/{job.job_id}?wait=20")
        result = pool.submit(ask, port, f"{JOBS}/{job.job_id}/result", Prefer="wait=31")
        wait_for(lambda: is_waiting(pollers, 2))
        finish(service, job)
        status, headers, body, _ = state.result(10)
        assert (status, body["status"]) == (200, "completed")
        assert "preference-applied" not in headers
        status, headers, body, _ = result.result(10)
        assert (status, body["image_id"]) == (200, job.image_id)
        assert headers["preference-applied"] == "wait=30"
        wait_for(lambda: pollers[-1]._task is None)


def test_answer_comes_within_30_ms_of_the_end(
    settings: Settings, service: Service, pool: ThreadPoolExecutor, pollers: list[EventPoller]
) -> None:
    delays = []
    with serve(settings) as port:
        for _ in range(7):
            job = submit_to(service)
            answer = pool.submit(ask, port, f"{JOBS}/{job.job_id}?wait=20")
            wait_for(lambda: is_waiting(pollers))
            ended = finish(service, job)
            delays.append(answer.result(10)[3] - ended)
    assert median(delays) < 0.030, delays


def test_when_the_time_is_over_the_answer_is_as_without_waiting(
    settings: Settings, service: Service
) -> None:
    job = submit_to(service)
    with serve(settings) as port:
        started = time.monotonic()
        status, _, body, ended = ask(port, f"{JOBS}/{job.job_id}?wait=1")
        assert (status, body["status"]) == (200, "pending")
        assert 0.9 < ended - started < 3
        status, headers, body, ended = ask(port, f"{JOBS}/{job.job_id}/result", Prefer="wait=0")
        assert (status, body["code"], headers["retry-after"]) == (409, "job_not_ready", "1")
        assert headers["preference-applied"] == "wait=0"
        finish(service, job)
        started = time.monotonic()
        assert ask(port, f"{JOBS}/{job.job_id}?wait=30")[3] - started < 1


def test_deleted_image_ends_the_wait(
    settings: Settings, service: Service, pool: ThreadPoolExecutor, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with serve(settings) as port:
        answer = pool.submit(ask, port, f"{JOBS}/{job.job_id}/result?wait=20")
        wait_for(lambda: is_waiting(pollers))
        delete_image(service, job.image_id, OPERATOR)
        assert answer.result(5)[0] == 404


def test_a_job_whose_event_is_missed_is_found_by_its_row(
    settings: Settings,
    service: Service,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "fetch_events", lambda *_, **__: [])
    job = submit_to(service)
    with serve(settings) as port:
        answer = pool.submit(ask, port, f"{JOBS}/{job.job_id}?wait=20")
        wait_for(lambda: is_waiting(pollers))
        ended = finish(service, job)
        status, _, body, answered = answer.result(10)
    assert (status, body["status"]) == (200, "completed")
    assert answered - ended < 3


def test_wait_ends_when_the_client_disconnects(
    settings: Settings, service: Service, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with serve(settings) as port:
        with wire(port) as line:
            line.send(f"GET {JOBS}/{job.job_id}?wait=30 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_for(lambda: is_waiting(pollers))
        wait_for(lambda: is_waiting(pollers, 0))


def test_beyond_half_of_the_connections_no_request_waits(
    settings: Settings,
    service: Service,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "max_connections", lambda: 2)
    job = submit_to(service)
    with serve(settings) as port:
        first = pool.submit(ask, port, f"{JOBS}/{job.job_id}?wait=20")
        wait_for(lambda: is_waiting(pollers))
        started = time.monotonic()
        assert ask(port, f"{JOBS}/{job.job_id}?wait=20")[2]["status"] == "pending"
        assert time.monotonic() - started < 2
        finish(service, job)
        assert first.result(10)[2]["status"] == "completed"


def test_stop_of_the_server_answers_with_what_is_known(
    settings: Settings, service: Service, pool: ThreadPoolExecutor, pollers: list[EventPoller]
) -> None:
    job = submit_to(service)
    with capture_logs() as logs:
        with serve(settings, finish_seconds=5) as port:
            state = pool.submit(ask, port, f"{JOBS}/{job.job_id}?wait=30")
            result = pool.submit(ask, port, f"{JOBS}/{job.job_id}/result?wait=30")
            wait_for(lambda: is_waiting(pollers, 2))
            stopped = time.monotonic()
        seconds = time.monotonic() - stopped
    assert (state.result(1)[0], state.result(1)[2]["status"]) == (200, "pending")
    assert result.result(1)[0] == 409
    assert seconds < 2.5
    assert sorted(entry["status"] for entry in logs if entry["event"] == "request") == [200, 409]


@pytest.mark.parametrize("sent", ["-1", "31", "x"])
@pytest.mark.parametrize("path", [f"{JOBS}/{{job_id}}", f"{JOBS}/{{job_id}}/result"])
def test_other_times_are_refused(client: Any, image: dict[str, str], path: str, sent: str) -> None:
    answer = client.get(path.format(**image), params={"wait": sent})
    assert (answer.status_code, answer.json()["code"]) == (422, "wait_invalid")


def upload(port: int, headers: dict[str, str], data: bytes, query: str) -> tuple[Any, Any]:
    """Send an upload; return the response and its body."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    body = form_body(data)
    head = upload_head(f"Content-Length: {len(body)}", *lines).replace(b"/upload ", query.encode())
    with wire(port) as line:
        line.send(head + body)
        response, content = line.answer()
        return response, json.loads(content)


def run_next(service: Service, pollers: list[EventPoller]) -> None:
    """Run the job of the upload that waits."""
    wait_for(lambda: is_waiting(pollers))
    with service.database.read() as connection:
        (job,) = list_all_jobs(connection)
    finish(service, job)


def test_upload_that_waits_is_answered_with_the_result(
    settings: Settings,
    service: Service,
    token: Token,
    jpeg: bytes,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
) -> None:
    headers = {**token(), "Prefer": "wait=20", "Idempotency-Key": "once"}
    with serve(settings) as port:
        answer = pool.submit(upload, port, headers, jpeg, "/upload ")
        run_next(service, pollers)
        response, body = answer.result(10)
        assert response.status == 200, body
        assert response.getheader("Preference-Applied") == "wait=20"
        assert response.getheader("X-RateLimit-Remaining") == "49"
        job_id = body.pop("job_id")
        result = get(port, f"{JOBS}/{job_id}/result", **token())[1]
        assert body == json.loads(result)
        repeated, same = upload(port, headers, jpeg, "/upload ")
        assert (repeated.status, same["job_id"]) == (200, job_id)


def test_repeated_upload_waits_for_the_same_job(
    settings: Settings,
    service: Service,
    token: Token,
    jpeg: bytes,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
) -> None:
    headers = {**token(), "Idempotency-Key": "once"}
    with serve(settings) as port:
        first, accepted = upload(port, headers, jpeg, "/upload?wait=1 ")
        assert (first.status, first.getheader("X-RateLimit-Remaining")) == (202, "49")
        assert accepted["status_url"] == f"{JOBS}/{accepted['job_id']}"
        second = pool.submit(upload, port, headers, jpeg, "/upload?wait=20 ")
        run_next(service, pollers)
        response, body = second.result(10)
        assert (response.status, body["job_id"]) == (200, accepted["job_id"])


def test_upload_whose_job_fails_is_a_422_with_its_id(
    settings: Settings,
    service: Service,
    token: Token,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
) -> None:
    damaged = truncated(encode(photo(80, 60), "JPEG"), 0.5)
    with serve(settings) as port:
        answer = pool.submit(upload, port, token(), damaged, "/upload?wait=20 ")
        run_next(service, pollers)
        response, problem = answer.result(10)
        assert (response.status, problem["code"]) == (422, "image_truncated")
        assert response.getheader("X-RateLimit-Remaining") == "49"
        state = get(port, f"{JOBS}/{problem['job_id']}")[1]
        assert json.loads(state)["status"] == "failed"


def test_upload_of_a_deleted_image_is_still_accepted(
    settings: Settings,
    service: Service,
    token: Token,
    jpeg: bytes,
    pool: ThreadPoolExecutor,
    pollers: list[EventPoller],
) -> None:
    with serve(settings) as port:
        answer = pool.submit(upload, port, token(), jpeg, "/upload?wait=20 ")
        wait_for(lambda: is_waiting(pollers))
        with service.database.read() as connection:
            (job,) = list_all_jobs(connection)
        delete_image(service, job.image_id, OPERATOR)
        assert answer.result(10)[0].status == 202


def test_accepted_upload_is_a_202_even_if_the_wait_fails(
    settings: Settings, token: Token, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("It does not answer.")

    monkeypatch.setattr(feed, "find_newest", fail)
    with serve(settings) as port:
        response, body = upload(port, token(), jpeg, "/upload?wait=20 ")
        assert (response.status, body["message"]) == (202, ACCEPTED)
        assert get(port, f"{body['status_url']}?wait=20")[0].status == 503


def test_bad_wait_is_refused_before_the_body_is_read(
    settings: Settings, token: Token, jpeg: bytes
) -> None:
    with serve(settings) as port, wire(port) as line:
        authorization = f"Authorization: {token()['Authorization']}"
        head = upload_head("Content-Length: 1000000", authorization)
        line.send(head.replace(b"/upload ", b"/upload?wait=31 "))
        response, body = line.answer()
    assert (response.status, json.loads(body)["code"]) == (422, "wait_invalid")
