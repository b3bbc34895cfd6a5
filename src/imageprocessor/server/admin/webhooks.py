"""Webhook endpoints: how they fare, their deliveries, and sending these again."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from imageprocessor.errors import RequestError
from imageprocessor.queue import webhooks
from imageprocessor.queue.database import clock
from imageprocessor.queue.jobs.webhooks import DeliveryStatus
from imageprocessor.queue.webhook_replay import replay
from imageprocessor.server.admin.access import Operator, Viewer
from imageprocessor.server.admin.pages import (
    PAGE_LENGTH,
    AdminRoute,
    Form,
    redirect,
    render_for_admin,
)
from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import ADMIN_PATH

DAYS = (1, 3, 7, 30)  #: for which events can be sent again

router = APIRouter(prefix=f"{ADMIN_PATH}/webhooks", route_class=AdminRoute, include_in_schema=False)


@router.get("")
def get_webhooks(request: Request, service: CurrentService, _viewer: Viewer) -> Response:
    """List the endpoints."""
    states = webhooks.list_states(service)
    return render_for_admin(request, "webhooks.html", states=states, host=show_host)


@router.get("/{name}")
def get_webhook(
    request: Request,
    service: CurrentService,
    _viewer: Viewer,
    name: str,
    status: DeliveryStatus = DeliveryStatus.WAITING,
    after: str | None = None,
) -> Response:
    """Show an endpoint and its deliveries."""
    state = webhooks.read_state(service, name)
    deliveries, following = webhooks.list_deliveries_page(
        service, name, status, PAGE_LENGTH, after or None
    )
    return render_for_admin(
        request,
        "webhook.html",
        state=state,
        host=show_host,
        status_name=status.value,
        statuses=[each.value for each in DeliveryStatus],
        deliveries=deliveries,
        following=following,
        is_first=not after,
        days=DAYS,
    )


@router.post("/{name}/enable")
def post_enable(
    request: Request, service: CurrentService, operator: Operator, name: str
) -> Response:
    """Send to an endpoint again."""
    waiting = webhooks.enable_endpoint(service, name, by=operator.user_id)
    return redirect(request, f"/webhooks/{name}", "enabled", waiting)


@router.post("/{name}/disable")
def post_disable(
    request: Request, service: CurrentService, operator: Operator, name: str
) -> Response:
    """Stop sending to an endpoint."""
    reason = f"disabled by {operator.user_id}"
    changed = webhooks.disable_endpoint(service, name, reason, by=operator.user_id)
    return redirect(request, f"/webhooks/{name}", "disabled" if changed else "unchanged")


@router.post("/{name}/replay")
def post_replay(
    request: Request,
    service: CurrentService,
    operator: Operator,
    name: str,
    form: Form,
) -> Response:
    """Send past events to an endpoint again."""
    days = form.get("days", "")
    if days not in map(str, DAYS):
        raise RequestError(f"days is {days[:40]!r}. Send one of {', '.join(map(str, DAYS))}.")
    replayed = replay(
        service,
        name,
        clock.utc_now() - timedelta(days=int(days)),
        _ignore_progress,
        failed_only=form.get("which") != "all",
        by=operator.user_id,
    )
    count = replayed.repeated + replayed.added
    return redirect(request, f"/webhooks/{name}", "replayed", count)


@router.get("/deliveries/{delivery_id}")
def get_delivery(
    request: Request, service: CurrentService, _viewer: Viewer, delivery_id: str
) -> Response:
    """Show a delivery and what it sends."""
    delivery = webhooks.read_delivery(service, delivery_id)
    body = json.loads(delivery["body"])
    return render_for_admin(request, "delivery.html", delivery=delivery, body=body)


@router.post("/deliveries/{delivery_id}/repeat")
def post_repeat(
    request: Request, service: CurrentService, operator: Operator, delivery_id: str
) -> Response:
    """Send a delivery again."""
    changed = webhooks.repeat_delivery(service, delivery_id, operator.user_id)
    notice = "repeated" if changed else "unchanged"
    return redirect(request, f"/webhooks/deliveries/{delivery_id}", notice)


def show_host(url: str) -> str:
    """Return the scheme and host of an endpoint's URL, whose path may contain a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _ignore_progress(_what: str, _count: int) -> None:
    """Do nothing: the page says how many there were."""
