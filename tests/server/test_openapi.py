from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from imageprocessor import errors
from imageprocessor.queue.jobs.description import PUBLIC_TYPES
from imageprocessor.server.openapi import problem_responses
from imageprocessor.server.schemas import Problem


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_document_lists_every_operation(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {
        "POST /api/v1/images/upload",
        "GET /api/v1/images/jobs/{job_id}",
        "GET /api/v1/images/jobs/{job_id}/result",
        "GET /api/v1/images/jobs/{job_id}/events",
        "GET /api/v1/events",
        "GET /api/v1/images/{image_id}",
        "DELETE /api/v1/images/{image_id}",
        "GET /api/v1/images/{image_id}/all",
        "GET /api/v1/images/{image_id}/direct",
        "GET /api/v1/images/batch",
        "POST /api/v1/images/batch",
        "GET /api/v1/batches/{batch_id}",
        "POST /api/v1/uploads",
        "PUT /api/v1/uploads/{image_id}",
        "POST /api/v1/uploads/{image_id}",
        "POST /api/v1/uploads/{image_id}/complete",
        "GET /api/v1/uploads/{image_id}",
        "GET /api/v1/health",
        "GET /api/v1/health/stats",
        "GET /api/v1/health/failed",
        "GET /",
        "GET /livez",
        "GET /readyz",
        "GET /storage/{bucket}/processed/{size}/{name}",
    }


def test_every_event_that_webhooks_receive_is_described(document: dict[str, Any]) -> None:
    assert set(document["webhooks"]) == set(PUBLIC_TYPES.values())
    for event_type, methods in document["webhooks"].items():
        content = methods["post"]["requestBody"]["content"]["application/json"]
        model = content["schema"]["$ref"].rpartition("/")[2]
        (example,) = document["components"]["schemas"][model]["examples"]
        assert example["type"] == event_type


def test_every_operation_has_a_unique_id_a_summary_and_a_tag(document: dict[str, Any]) -> None:
    found = list(operations(document).values())
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["summary"] and operation["tags"] for operation in found)


def test_every_schema_reference_resolves(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in document["components"]["schemas"]


def test_upload_form_is_documented(
    document: dict[str, Any],
) -> None:
    operation = document["paths"]["/api/v1/images/upload"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "bucket"]
    assert set(form["properties"]) == {"file", "bucket", "metadata", "webhook"}
    assert {"200", "202", "400", "401", "413", "415", "422", "429", "503", "507"} == set(
        operation["responses"]
    )
    assert "Idempotency-Key" in str(operation["parameters"]).title()


@pytest.mark.parametrize(
    "settings", [{"allowed_mime_types": ["image/jpeg", "image/avif"]}], indirect=True
)
def test_accepted_formats_are_named(document: dict[str, Any]) -> None:
    for path, field in (("/api/v1/images/upload", "file"), ("/api/v1/images/batch", "files")):
        body = document["paths"][path]["post"]["requestBody"]
        form = body["content"]["multipart/form-data"]
        assert form["encoding"][field] == {"contentType": "image/jpeg, image/avif"}
    upload = document["paths"]["/api/v1/images/upload"]["post"]["requestBody"]
    properties = upload["content"]["multipart/form-data"]["schema"]["properties"]
    assert properties["file"]["description"] == "The image: JPEG or AVIF."


def test_batch_form_is_documented(document: dict[str, Any]) -> None:
    operation = document["paths"]["/api/v1/images/batch"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["files", "bucket"]
    assert set(form["properties"]) == {"files", "bucket", "metadata", "webhook", "items"}
    assert {"207", "400", "401", "413", "415", "422", "429", "503", "507"} == set(
        operation["responses"]
    )
    assert [parameter["name"] for parameter in operation["parameters"]] == [
        "atomic",
        "idempotency-key",
    ]


def test_links_of_an_accepted_upload_name_existing_operations(
    document: dict[str, Any],
) -> None:
    links = document["paths"]["/api/v1/images/upload"]["post"]["responses"]["202"]["links"]
    known = {operation["operationId"] for operation in operations(document).values()}
    assert {link["operationId"] for link in links.values()} <= known


def test_token_is_optional_for_reads_and_required_for_writes(document: dict[str, Any]) -> None:
    found = operations(document)
    assert found["GET /api/v1/images/{image_id}"]["security"] == [{}, {"bearer": []}]
    assert found["POST /api/v1/images/upload"]["security"] == [{"bearer": []}]
    assert found["DELETE /api/v1/images/{image_id}"]["security"] == [{"bearer": []}]
    assert found["POST /api/v1/images/batch"]["security"] == [{"bearer": []}]
    assert found["GET /api/v1/batches/{batch_id}"]["security"] == [{"bearer": []}]
    assert "security" not in found["GET /api/v1/health"]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


@pytest.mark.parametrize("settings", [{"public_reads": False}], indirect=True)
def test_token_is_required_for_private_reads(document: dict[str, Any]) -> None:
    assert operations(document)["GET /api/v1/images/{image_id}"]["security"] == [{"bearer": []}]


def test_configured_sizes_are_listed_where_others_are_refused(
    document: dict[str, Any],
) -> None:
    found = {
        operation["operationId"]: parameter["schema"].get("enum")
        for operation in operations(document).values()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "size"
    }
    sizes = ["thumbnail", "medium"]
    assert found == {
        "getImage": sizes,
        "getImageFile": sizes,
        "getStoredFile": sizes,
        "getImages": None,
    }


def test_every_error_response_is_declared_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            if status >= "400" and name not in {"GET /readyz", "GET /api/v1/health"}:
                assert list(response["content"]) == ["application/problem+json"]


def test_errors_of_one_status_share_a_response_that_names_their_codes() -> None:
    response = problem_responses(errors.InvalidIdError, errors.UnknownSizeError)[422]
    assert "`id_invalid`" in response["description"]
    assert "`size_unknown`" in response["description"]


def test_problem_matches_its_schema(client: TestClient) -> None:
    assert set(client.get("/nowhere").json()) == set(Problem.model_fields) - {"job_id"}
