"""A route class for the two endpoints that FastAPI documents but does not call.

FastAPI's handler resolves dependencies and validates the response. With it, the status check and
the upload of 100 KB miss their budgets of 0.50 and 0.60 in `python -m benchmarks service`. CPU time
of one request, without uvicorn, lowest of several runs: status check 0.51 ms with FastAPI's handler
and 0.26 ms without; upload 5.0 ms and 4.2 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and the path parameters (as strings).

    The endpoint returns the response. Pass this class as *route_class_override* to
    ``APIRouter.add_api_route``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request, **request.path_params)
            return response

        return handle
