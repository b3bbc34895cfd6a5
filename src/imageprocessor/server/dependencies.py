"""Types for the parameters of routes: the service, the caller, ids and sizes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from starlette.convertors import Convertor, register_url_convertor

from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.queue.access import Caller
from imageprocessor.queue.images import MAX_BATCH
from imageprocessor.queue.service import Service
from imageprocessor.server.auth import read_caller, require_admin, require_user
from imageprocessor.server.schemas import BATCH_ID, IMAGE_ID, JOB_ID
from imageprocessor.server.threads import StorageThreads

UUID_PATTERN = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


# These are coroutines because FastAPI would run a plain function in a thread.
async def provide_service(request: Request) -> Service:
    """Return the service that this process opened at startup."""
    service: Service = request.state.service
    return service


async def provide_storage_threads(request: Request) -> StorageThreads:
    """Return this process's threads for storage calls."""
    storage_threads: StorageThreads = request.state.storage_threads
    return storage_threads


async def provide_base_url(request: Request) -> str:
    """Return the prefix of image URLs: PUBLIC_BASE_URL, or else the path of the service."""
    base_url: str = request.state.service.settings.public_base_url
    return base_url or str(request.scope["root_path"])


CurrentService = Annotated[Service, Depends(provide_service)]
CurrentStorageThreads = Annotated[StorageThreads, Depends(provide_storage_threads)]
BaseUrl = Annotated[str, Depends(provide_base_url)]

User = Annotated[Caller, Depends(require_user)]
Admin = Annotated[Caller, Depends(require_admin)]
Reader = Annotated[Caller, Depends(read_caller)]

JobId = Annotated[str, Path(json_schema_extra={"format": "uuid", "examples": [JOB_ID]})]
ImageId = Annotated[str, Path(json_schema_extra={"format": "uuid", "examples": [IMAGE_ID]})]
BatchId = Annotated[str, Path(json_schema_extra={"format": "uuid", "examples": [BATCH_ID]})]
ImageIds = Annotated[
    list[str],
    Query(
        description=f"1 to {MAX_BATCH} ids: repeat the parameter, or separate ids by commas.",
        json_schema_extra={
            "items": {"type": "string", "pattern": f"^{UUID_PATTERN}$"},
            "minItems": 1,
            "maxItems": MAX_BATCH,
            "examples": [[IMAGE_ID]],
        },
    ),
]
Atomic = Annotated[
    bool, Query(description="Accept all files or, if one is refused, none: then with a 422.")
]
Size = Annotated[str, Query(description="The name of a configured size.", examples=["medium"])]
FileFormat = Annotated[
    str | None,
    Query(
        description="One of the formats that the size is made in; without it, the first of them.",
        json_schema_extra={"enum": list(OUTPUT_FORMATS), "examples": ["webp"]},
    ),
]


class ImageIdConvertor(Convertor[str]):
    """Matches a path segment unless it is the name of a sibling route of ``/{image_id}``.

    ``GET /upload`` is therefore a 405, not a request for an image with the id "upload".
    """

    regex = "(?!(?:upload|batch|jobs)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("image_id", ImageIdConvertor())
