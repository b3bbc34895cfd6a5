from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.testclient import TestClient

from imageprocessor.server.direct_route import DirectRoute


@pytest.fixture
def app() -> FastAPI:
    router = APIRouter()

    async def read(request: Request, folder: str, name: str) -> Response:
        return Response(f"{request.method} {folder} {name} {request.query_params.get('size')}", 203)

    router.add_api_route("/{folder}/{name}", read, route_class_override=DirectRoute)
    made = FastAPI()
    made.include_router(router)
    return made


def test_route_receives_path_parameters_and_returns_its_response(app: FastAPI) -> None:
    answer = TestClient(app).get("/a%20b/c?size=small")
    assert (answer.status_code, answer.text) == (203, "GET a b c small")


def test_route_is_documented_and_rejects_other_methods(app: FastAPI) -> None:
    names = [
        parameter["name"]
        for parameter in app.openapi()["paths"]["/{folder}/{name}"]["get"]["parameters"]
    ]
    assert names == ["folder", "name"]
    assert TestClient(app).post("/a/b").status_code == 405
