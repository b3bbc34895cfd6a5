"""What Schemathesis cannot know from the OpenAPI document: images, used keys and existing ids.

It generates everything else. SCHEMATHESIS_IMAGES holds the completed images: a JSON list of the
responses to their uploads. SCHEMATHESIS_BATCH is the id of a batch.
"""

from __future__ import annotations

import json
import os
from itertools import count, cycle
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import RejectedPositiveData

from tests.images import encode, photo

IMAGES = cycle(json.loads(os.environ.get("SCHEMATHESIS_IMAGES", "[]")))
BATCH_ID = os.environ.get("SCHEMATHESIS_BATCH", "")
NUMBERS = count()

for name in ("JPEG", "PNG", "WEBP"):
    schemathesis.openapi.media_type(f"image/{name.lower()}", st.just(encode(photo(8, 6), name)))


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Remove the fields whose validity a schema cannot express.

    `webhook` must name an endpoint, `items` have as many entries as there are files, and `direct`
    needs S3. `size` has a limit that a setting sets.
    """
    for path in ("/api/v1/images/upload", "/api/v1/images/batch"):
        content = raw_schema["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        for name in ("webhook", "items"):
            content["schema"]["properties"].pop(name, None)
            content["encoding"].pop(name, None)
    ticket = raw_schema["components"]["schemas"]["TicketRequest"]["properties"]
    for name in ("webhook", "direct", "size", "sub"):  # only admins may set `sub`
        ticket.pop(name)


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]
) -> None:
    """Make valid requests valid in the ways that a schema cannot express."""
    if case.meta is None:
        return
    if "Idempotency-Key" in case.headers and not case.meta.is_negative_at(ParameterLocation.HEADER):
        case.headers["Idempotency-Key"] = (
            f"key-{next(NUMBERS)}"  # two different uploads must not share a key
        )
    if (
        isinstance(case.body, dict)
        and case.body.get("bucket") == ""
        and not case.meta.is_negative_at(ParameterLocation.BODY)
    ):
        case.body["bucket"] = (
            "photos"  # Schemathesis 4.32 ignores the pattern if it sends only required fields
        )
    invented = case.meta.phase.name is not TestPhase.STATEFUL and not case.meta.is_negative_at(
        ParameterLocation.PATH
    )
    if invented and case.method != "DELETE" and next(NUMBERS) % 2:
        image = next(IMAGES)
        known = image | {
            "bucket": "photos",
            "size": "medium",
            "batch_id": BATCH_ID,
            "name": f"{image['image_id']}_medium.webp",
        }
        case.path_parameters.update({name: known[name] for name in case.path_parameters})


@schemathesis.hook
def filter_failure(
    _context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Accept four failures.

    An unknown header is ignored, as RFC 9110, 5.1, requires. A form has only text, so a bucket that
    is a boolean arrives as the name "true". A cursor may be well-formed, but of another database. A
    size need not be made in each format.
    """
    is_accepted = isinstance(failure, AcceptedNegativeData)
    is_ignored = is_accepted and "x-schemathesis-unknown-property" in case.headers
    form = case.body if isinstance(case.body, dict) else {}
    is_text = is_accepted and isinstance(form.get("bucket"), bool)
    is_foreign = isinstance(failure, RejectedPositiveData) and response.status_code == 410
    is_missing = isinstance(failure, RejectedPositiveData) and "format" in (case.query or {})
    return not (is_ignored or is_text or is_foreign or is_missing)
