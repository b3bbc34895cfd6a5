"""Finds out who calls, from the request's token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from imageprocessor.errors import AdminRequiredError, UnauthorizedError
from imageprocessor.queue.access import ANYONE, Caller
from imageprocessor.tokens import check_token

bearer = HTTPBearer(
    scheme_name="bearer",
    bearerFormat="JWT",
    description=(
        "A signed token whose `sub` names the user; `imageprocessor token --sub NAME` makes one."
    ),
    auto_error=False,
)


async def require_user(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Return the user whose token the request carries.

    Raises:
        UnauthorizedError: There is no token, or it is not acceptable.
    """
    if credentials is None:
        raise UnauthorizedError
    state = request.state
    return check_token(credentials.credentials, state.keys, state.service.settings)


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
    """Return who reads; with PUBLIC_READS, a reader whose token is bad or missing is anonymous.

    Raises:
        UnauthorizedError: PUBLIC_READS is false and there is no acceptable token.
    """
    public: bool = request.state.service.settings.public_reads
    if public and "authorization" not in request.headers:
        return ANYONE
    try:
        return await require_user(request, await bearer(request))
    except UnauthorizedError:
        if not public:
            raise
        return ANYONE
