"""Rendering the admin pages, and answering their errors with a page, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from imageprocessor.errors import ImageProcessorError, UnknownWebhookError
from imageprocessor.queue.database import clock
from imageprocessor.queue.pause import read_pause
from imageprocessor.queue.service import Service
from imageprocessor.server.admin.access import AdminRefusalError, LoginRequiredError
from imageprocessor.server.middleware.security_headers import ADMIN_PATH
from imageprocessor.server.problems import find_problem
from imageprocessor.tokens import MAX_TOKEN_CHARACTERS

PAGE_LENGTH = 50  #: rows of a list
MAX_FORM_BYTES = MAX_TOKEN_CHARACTERS * 2
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
HEADERS = {"Cache-Control": "no-store"}

#: What an action has done, as the next page says it; ``count`` is how often.
NOTICES = {
    "retried": "The job is waiting for a worker again.",
    "retried_many": "Jobs that are waiting for a worker again: {count}.",
    "retried_some": "Jobs that are waiting for a worker again: {count}. There are more: retry "
    "once more.",
    "deleted": "The image is deleted, with all its files.",
    "paused": "Paused. Uploads are still accepted; workers finish what they have begun.",
    "resumed": "Workers take jobs again.",
    "unchanged": "Somebody was faster: there was nothing left to do.",
    "enabled": "The endpoint is enabled. Deliveries that had waited: {count}.",
    "disabled": "The endpoint is disabled. Its deliveries wait.",
    "replayed": "Deliveries that are sent again: {count}.",
    "repeated": "The delivery is sent again.",
    "logged_out": "You have logged out.",
}


class AdminRoute(APIRoute):
    """A route whose errors are answered with a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_with_page(request: Request) -> Response:
            try:
                return await answer(request)
            except LoginRequiredError as refusal:
                return show_login(request, refusal.advice)
            except AdminRefusalError as refusal:
                return _show_error(request, refusal.status, refusal.heading, refusal.advice)
            except RequestValidationError:
                advice = "The address has a value that cannot be read. Go back, and change it."
                return _show_error(request, HTTPStatus.BAD_REQUEST, "Not understood", advice)
            except ImageProcessorError as error:
                status, title = find_problem(type(error))
                if isinstance(error, UnknownWebhookError):  # it is what the address names
                    status = HTTPStatus.NOT_FOUND
                return _show_error(request, HTTPStatus(status), title, str(error))

        return answer_with_page


def render(
    request: Request, template: str, status: int = HTTPStatus.OK, **values: Any
) -> HTMLResponse:
    """Return *template*, rendered with *values* and what every page shows, as a response."""
    service: Service = request.state.service
    page = environment.get_template(template).render(
        admin=find_base(request),
        viewer=getattr(request.state, "viewer", None),
        service_name=service.settings.service_name,
        version=request.app.version,
        now=clock.utc_now(),
        here=request.scope["path"],
        notice=_read_notice(request),
        **values,
    )
    return HTMLResponse(page, status, HEADERS)


def render_for_admin(request: Request, template: str, **values: Any) -> HTMLResponse:
    """Return a page for somebody who has logged in, with a note while the workers are paused."""
    return render(request, template, pause=read_pause(request.state.service), **values)


def show_login(
    request: Request, advice: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED
) -> HTMLResponse:
    """Return the form to log in, which leads back to the page that was asked for."""
    wanted = request.scope["path"]
    if request.method != "GET" or status == HTTPStatus.OK:
        wanted = find_base(request)
    elif query := request.scope["query_string"].decode("latin-1"):
        wanted = f"{wanted}?{query}"
    return render(request, "login.html", status, advice=advice, wanted=wanted)


def redirect(request: Request, path: str, notice: str = "", count: int = 0) -> RedirectResponse:
    """Return to the admin page *path* after an action; it then shows *notice*."""
    address = find_base(request) + path
    if notice:
        query = urlencode({"notice": notice, "count": count})
        address = f"{address}{'&' if '?' in path else '?'}{query}"
    return RedirectResponse(address, HTTPStatus.SEE_OTHER, HEADERS)


def find_base(request: Request) -> str:
    """Return the path of the admin pages, as clients see it."""
    return f"{request.scope['root_path']}{ADMIN_PATH}"


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that one of the pages has sent.

    Raises:
        AdminRefusalError: It is longer than any of theirs.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise AdminRefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "That is too long",
                f"The form may have {MAX_FORM_BYTES} bytes. Nothing was done.",
            )
    return dict(parse_qsl(body.decode("utf-8", "replace")))


Form = Annotated[dict[str, str], Depends(read_form)]


def _show_error(request: Request, status: HTTPStatus, heading: str, advice: str) -> HTMLResponse:
    return render(request, "error.html", status, heading=heading, advice=advice)


def _read_notice(request: Request) -> str | None:
    """Return what the last action has done, if the address says so.

    Only the texts of NOTICES can be shown: anybody can make such an address.
    """
    text = NOTICES.get(request.query_params.get("notice", ""))
    count = request.query_params.get("count", "")
    if text is None or not (count.isascii() and count.isdecimal()):
        return text
    return text.format(count=int(count[:9]))


def write_age(moment: datetime | str | None) -> str:
    """Return how long ago *moment* was, such as ``"5 min ago"``; the future is ``"in 5 min"``."""
    if moment is None:
        return "never"
    if isinstance(moment, str):
        moment = clock.from_text(moment)
    seconds = (clock.utc_now() - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    length = write_duration(abs(seconds))
    return f"{length} ago" if seconds > 0 else f"in {length}"


def write_duration(seconds: float) -> str:
    """Return a duration in the largest unit of which it has two.

    >>> [write_duration(seconds) for seconds in (0.0042, 1.25, 90, 300, 7300, 200_000)]
    ['4 ms', '1.2 s', '90 s', '5 min', '2 h', '2 d']
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2g} s"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def write_bytes(size: float) -> str:
    """Return a size in its largest unit.

    >>> [write_bytes(size) for size in (0, 999, 1500, 48_000, 3_200_000_000)]
    ['0 B', '999 B', '1.5 kB', '48 kB', '3.2 GB']
    """
    for unit in BYTE_UNITS:
        if size < 1000 or unit == BYTE_UNITS[-1]:
            break
        size /= 1000
    digits = 1 if size < 10 and unit != BYTE_UNITS[0] else 0
    return f"{size:.{digits}f} {unit}"


def write_moment(moment: datetime | str | None) -> str:
    """Return a time in UTC to the second, such as ``"2024-11-08 14:00:00"``."""
    if moment is None:
        return ""
    if isinstance(moment, str):
        moment = clock.from_text(moment)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def write_query(values: dict[str, Any]) -> str:
    """Return *values* as the query of an address, without the empty ones."""
    return urlencode({name: value for name, value in values.items() if value})


environment = Environment(
    loader=PackageLoader("imageprocessor.server", "pages/admin"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters |= {
    "ago": write_age,
    "bytes": write_bytes,
    "duration": write_duration,
    "json": partial(json.dumps, indent=2, ensure_ascii=False),
    "moment": write_moment,
    "query": write_query,
}
