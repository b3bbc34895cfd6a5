"""The routes that clients poll and send pictures to.

FastAPI describes them, and leaves the request to them.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import request_response


class DirectRoute(APIRoute):
    """A route for a coroutine that takes the request and what its path names, all text.

    And returns the response.

    Solving dependencies that are not there would take a fifth of a status check.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = request_response(self._respond)

    async def _respond(self, request: Request) -> Response:
        response: Response = await self.endpoint(request, **request.path_params)
        return response
