"""Identifying the caller by the request's token."""

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
        "A signed token whose `sub` is the user's id. Create one with "
        "`imageprocessor token --sub NAME`."
    ),
    auto_error=False,
)


async def require_user(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Return the user identified by the request's token.

    Raises:
        UnauthorizedError: The token is missing or invalid.
    """
    if credentials is None:
        raise UnauthorizedError
    state = request.state
    return check_token(credentials.credentials, state.keys, state.service.settings)


async def require_admin(caller: Annotated[Caller, Depends(require_user)]) -> Caller:
    """Return the admin identified by the request's token.

    Raises:
        UnauthorizedError: The token is missing or invalid.
        AdminRequiredError: The token is valid, but not an admin's.
    """
    if not caller.admin:
        raise AdminRequiredError
    return caller


async def read_caller(request: Request) -> Caller:
    """Return the caller of a read; with PUBLIC_READS, a missing or invalid token means anonymous.

    Raises:
        UnauthorizedError: PUBLIC_READS is false, and the token is missing or invalid.
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


async def is_admin(request: Request) -> bool:
    """Return whether the request has an admin's token."""
    try:
        caller = await require_user(request, await bearer(request))
    except UnauthorizedError:
        return False
    return caller.admin
