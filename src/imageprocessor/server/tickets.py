"""Upload tickets: signed addresses to which one image may be uploaded without a token."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request

from imageprocessor.core.limits import check_size
from imageprocessor.errors import (
    AdminRequiredError,
    InvalidMetadataError,
    InvalidTicketError,
)
from imageprocessor.queue.access import Caller
from imageprocessor.queue.client_metadata import parse_context
from imageprocessor.queue.database import clock
from imageprocessor.queue.direct_uploads import DirectUpload, sign_upload
from imageprocessor.queue.service import Service
from imageprocessor.queue.uploads import check_bucket_name, require_webhook
from imageprocessor.server.schemas import DirectRequest, IssuedTicket, TicketRequest
from imageprocessor.tokens import Ticket, TokenKeys, check_ticket, sign_ticket

UPLOADS_URL = "/api/v1/uploads"
#: The ticket is part of the address; proxies accept some 8 KB of it.
MAX_METADATA_BYTES = 4096

TicketText = Annotated[str, Query(description="The ticket, as in `upload_url`.")]


def issue_ticket(
    service: Service, keys: TokenKeys, user: Caller, root_path: str, wanted: TicketRequest
) -> IssuedTicket:
    """Return a new ticket for *user*, or, if an admin asks for it, for another user.

    Its address begins with *root_path*: only the caller knows by which host it reaches the service.

    Raises:
        AdminRequiredError: It is for another user, and *user* is not an admin.
        InvalidBucketError, InvalidMetadataError, UnknownWebhookError, FileTooLargeError: The upload
            could not be accepted.
        DirectUnsupportedError, RequestError, StorageUnavailableError: See :func:`sign_upload`.
    """
    assert user.user_id is not None
    if wanted.sub not in (None, user.user_id) and not user.admin:
        raise AdminRequiredError
    check_bucket_name(service, wanted.bucket)
    metadata = json.dumps(wanted.metadata, separators=(",", ":")) if wanted.metadata else ""
    parse_context(metadata)
    if len(metadata) > MAX_METADATA_BYTES:
        raise InvalidMetadataError(
            f"metadata has {len(metadata)} bytes. A ticket can hold {MAX_METADATA_BYTES}: send "
            "less and store the rest yourself."
        )
    if wanted.webhook:
        with service.database.read() as connection:
            require_webhook(connection, wanted.webhook)
    settings = service.settings
    max_bytes = min(wanted.max_bytes or settings.limits.max_bytes, settings.limits.max_bytes)
    if wanted.size is not None:
        check_size(wanted.size, replace(settings.limits, max_bytes=max_bytes))
        max_bytes = wanted.size
    ticket = Ticket(
        str(uuid.uuid4()),
        wanted.sub or user.user_id,
        wanted.bucket,
        max_bytes,
        metadata,
        wanted.webhook or "",
    )
    expires_at = clock.utc_now() + timedelta(seconds=wanted.expires_in)
    query = urlencode({"ticket": sign_ticket(keys, settings, ticket, expires_at)})
    address = f"{root_path}{UPLOADS_URL}/{ticket.image_id}"
    issued: dict[str, Any] = {
        "upload_url": f"{address}?{query}",
        "image_id": ticket.image_id,
        "expires_at": expires_at,
    }
    if wanted.direct:
        signed = sign_upload(service, make_direct(ticket), wanted.size, wanted.expires_in)
        values = {"fields" if signed.method == "POST" else "headers": signed.values}
        issued["direct"] = DirectRequest(
            method=signed.method, url=signed.url, max_bytes=max_bytes, **values
        )
        issued["complete_url"] = f"{address}/complete?{query}"
    return IssuedTicket(**issued)


def make_direct(ticket: Ticket) -> DirectUpload:
    """Return the upload that *ticket* permits, as one that is sent straight to S3."""
    return DirectUpload(
        ticket.image_id, ticket.bucket, ticket.max_bytes, ticket.metadata, ticket.webhook
    )


def read_ticket(request: Request, text: str, image_id: str, *, leeway_seconds: int = 0) -> Ticket:
    """Return the ticket of *request*, which must be for *image_id*.

    Raises:
        InvalidTicketError: It is missing, expired, not ours, or for another image.
    """
    if not text:
        raise InvalidTicketError("the address has none")
    state = request.state
    ticket = check_ticket(text, state.keys, state.service.settings, leeway_seconds=leeway_seconds)
    if ticket.image_id != image_id:
        raise InvalidTicketError(f"it is not for the image {image_id[:40]!r}")
    return ticket
