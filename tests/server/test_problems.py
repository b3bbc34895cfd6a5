from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from imageprocessor import errors
from imageprocessor.errors import ImageProcessorError
from imageprocessor.server.problems import PROBLEMS, fault_of, find_problem
from imageprocessor.server.routes import health


def every_class(
    of: type[ImageProcessorError] = ImageProcessorError,
) -> Iterator[type[ImageProcessorError]]:
    yield of
    for child in of.__subclasses__():
        yield from every_class(child)


#: Raised at startup, in a worker or on the command line, never by a request.
ELSEWHERE = {
    errors.InvalidVariantError,
    errors.InvalidTransformationError,
    errors.SettingsError,
    errors.MissingExtraError,
    errors.BrokerUnavailableError,  # /health reports it
    errors.NoWorkerError,  # as above
    errors.SourceMissingError,
    errors.SourceCorruptError,
    errors.WorkerLostError,
    errors.DecodeTimeoutError,
    errors.MemoryLimitError,
    errors.StripUnsupportedError,
    errors.UnexpectedError,
}


@pytest.mark.parametrize(
    "error_class", [found for found in every_class() if not found.__subclasses__()]
)
def test_every_error_has_a_status_or_never_reaches_a_request(
    error_class: type[ImageProcessorError],
) -> None:
    assert (error_class in PROBLEMS) != (error_class in ELSEWHERE)
    assert find_problem(error_class)[0] == 500 or error_class in PROBLEMS


@pytest.mark.parametrize("error_class", [errors.InputError, errors.StorageError, errors.JobError])
def test_base_class_without_a_status_is_a_500(
    error_class: type[ImageProcessorError],
) -> None:
    assert find_problem(error_class)[0] == 500


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "not_found"),
        (405, "method_not_allowed"),
        (413, "content_too_large"),
        (414, "uri_too_long"),
        (416, "range_not_satisfiable"),
        (431, "request_header_fields_too_large"),
    ],
)
def test_code_of_a_status_is_the_same_on_all_python_versions(status: int, code: str) -> None:
    assert fault_of(HTTPStatus(status)).code == code


def test_codes_are_unique() -> None:
    codes = [error_class.code for error_class in every_class()]
    assert len(codes) == len(set(codes))


def test_problem_has_the_standard_members_and_our_own(client: TestClient) -> None:
    answer = client.get("/nowhere", headers={"X-Request-ID": "order-17"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "type": "urn:imageprocessor:error:not_found",
        "title": "Not Found",
        "status": 404,
        "detail": "Nothing matches the given URI.",
        "code": "not_found",
        "request_id": "order-17",
    }


def test_trailing_slash_is_a_404_without_a_redirect(client: TestClient) -> None:
    assert client.get("/api/v1/health/", follow_redirects=False).status_code == 404


def test_unavailable_database_is_a_503_with_retry_after_and_logged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise errors.DatabaseUnavailableError("The database is locked.")

    monkeypatch.setattr(health, "collect_statistics", fail)
    with capture_logs() as logs:
        answer = client.get("/api/v1/health/stats")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert [line["code"] for line in logs if line["log_level"] == "error"] == [
        "database_unavailable"
    ]
