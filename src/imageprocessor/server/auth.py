"""From a request to who asks, and what a route is given besides: the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from imageprocessor.errors import AdminRequiredError, UnauthorizedError
from imageprocessor.queue.access import ANYONE, Caller
from imageprocessor.queue.service import Service
from imageprocessor.tokens import check_token

bearer = HTTPBearer(
    scheme_name="bearer",
    bearerFormat="JWT",
    description="A signed token whose `sub` names the user; `imageprocessor token --sub NAME` makes one.",
    auto_error=False,
)
#: For OpenAPI: a reader may send a token; it must only where PUBLIC_READS is false.
READER_SECURITY: dict[str, Any] = {"security": [{}, {"bearer": []}]}


async def provide_service(request: Request) -> Service:
    """Return the service that the lifespan opened in this process.

    Async, or else FastAPI would use a thread for it.
    """
    service: Service = request.state.service
    return service


async def require_user(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Return the user whose token the request carries.

    Raises:
        UnauthorizedError: There is none, or it is not acceptable.
    """
    if credentials is None:
        raise UnauthorizedError
    return check_token(credentials.credentials, request.state.keys, request.state.service.settings)


async def require_admin(caller: Annotated[Caller, Depends(require_user)]) -> Caller:
    """Return the admin whose token the request carries.

    Raises:
        UnauthorizedError: As :func:`require_user`.
        AdminRequiredError: The token is good, but not an admin's.
    """
    if not caller.admin:
        raise AdminRequiredError
    return caller


async def read_caller(request: Request) -> Caller:
    """Return who reads.

    Where PUBLIC_READS is true, a bad token or none makes the reader an anonymous one.

    Raises:
        UnauthorizedError: PUBLIC_READS is false and there is no acceptable token.
    """
    public: bool = request.state.service.settings.public_reads
    if (
        public and "authorization" not in request.headers
    ):  # most readers: refusing them first would cost them time
        return ANYONE
    try:
        return await require_user(request, await bearer(request))
    except UnauthorizedError:
        if not public:
            raise
        return ANYONE


CurrentService = Annotated[Service, Depends(provide_service)]
User = Annotated[Caller, Depends(require_user)]
Admin = Annotated[Caller, Depends(require_admin)]
Reader = Annotated[Caller, Depends(read_caller)]
