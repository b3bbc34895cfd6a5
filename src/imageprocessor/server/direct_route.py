"""The route class of the two measured exceptions: FastAPI describes them, and does not run them.

Solving dependencies and checking the answer once more cost a status check 0.17 ms of its 0.45 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and the path's parameters, all text.

    The endpoint returns the response. Pass the class as *route_class_override* to
    ``APIRouter.add_api_route``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request, **request.path_params)
            return response

        return handle


def make_json(
    body: BaseModel, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return *body* as JSON, without the fields that were not set."""
    content = body.model_dump_json(exclude_unset=True)
    return Response(content, status, headers, media_type="application/json")
