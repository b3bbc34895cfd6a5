"""The grid of images, and their files, which the admin's cookie opens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.errors import UnknownSizeError
from imageprocessor.queue.images import read_image
from imageprocessor.queue.job_search import search_jobs
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.server.admin.access import Viewer
from imageprocessor.server.admin.jobs import parse_filter, read_filter_fields
from imageprocessor.server.admin.pages import PAGE_LENGTH, AdminRoute, render_for_admin
from imageprocessor.server.dependencies import CurrentService, CurrentStorageThreads
from imageprocessor.server.middleware.security_headers import ADMIN_PATH

THUMBNAIL_WIDTH = 200  #: in CSS pixels, at most

router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@router.get("/images")
def get_images(
    request: Request, service: CurrentService, _viewer: Viewer, after: str | None = None
) -> Response:
    """Show the newest images that match the filter in the query."""
    asked = read_filter_fields(request.query_params) | {"status": JobStatus.COMPLETED.value}
    page = search_jobs(service, parse_filter(asked), PAGE_LENGTH, after or None)
    thumbnails = {job.image_id: choose_thumbnail(job) for job in page.jobs}
    return render_for_admin(
        request,
        "images.html",
        asked=asked,
        page=page,
        thumbnails=thumbnails,
        is_first=not after,
    )


@router.get("/images/{image_id}/{name}")
async def get_image_file(
    service: CurrentService,
    storage_threads: CurrentStorageThreads,
    viewer: Viewer,
    image_id: str,
    name: str,
) -> Response:
    """Return a file of an image: a size, or an alternate of it as ``medium.webp``."""
    job = await storage_threads.run(read_image, service, image_id, viewer)
    key = (job.variant_keys or {}).get(name)
    if key is None:
        raise UnknownSizeError(f"This image has no file {name[:40]!r}.")
    content = await storage_threads.run(service.storage.get, key)
    mime_type = OUTPUT_FORMATS[job.describe_file(name)["format"]].mime_type
    headers = {"Cache-Control": "private, max-age=300", "Content-Disposition": "inline"}
    return Response(content, media_type=mime_type, headers=headers)


def choose_thumbnail(job: Job) -> dict[str, object]:
    """Return the name and dimensions of the smallest file that is large enough for the grid."""
    files = [{"name": size, **job.describe_file(size)} for size in job.sizes]
    files.sort(key=lambda file: file["width"])
    large_enough = [file for file in files if file["width"] >= THUMBNAIL_WIDTH]
    return large_enough[0] if large_enough else files[-1]
