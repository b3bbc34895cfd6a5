"""JSON responses that end in a newline, so that a terminal's prompt begins a line of its own."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel


class JsonLine(JSONResponse):
    """A JSON response that ends in a newline; the ``default_response_class`` of each router."""

    def render(self, content: Any) -> bytes:
        return super().render(content) + b"\n"


def make_json(
    body: BaseModel, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response of *body*, without fields that were not set."""
    content = body.model_dump_json(exclude_unset=True) + "\n"
    return Response(content, status, headers, media_type="application/json")
