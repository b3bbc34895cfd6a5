"""The first page: how the service fares, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool

from imageprocessor.queue import actions
from imageprocessor.queue.database import clock
from imageprocessor.queue.disks import measure_disks
from imageprocessor.queue.health import check_health, oldest_open_seconds
from imageprocessor.queue.job_search import JobFilter, search_jobs
from imageprocessor.queue.jobs.job import JobStatus
from imageprocessor.queue.pause import pause, resume
from imageprocessor.queue.service import Service
from imageprocessor.queue.statistics import collect_statistics, read_throughput
from imageprocessor.queue.webhooks import list_states
from imageprocessor.server.admin.access import Operator, Viewer
from imageprocessor.server.admin.pages import (
    PAGE_LENGTH,
    AdminRoute,
    redirect,
    render_for_admin,
)
from imageprocessor.server.dependencies import CurrentService
from imageprocessor.server.middleware.security_headers import ADMIN_PATH
from imageprocessor.server.routes.health import find_faults

NEWEST = 5  #: failures and actions
CHART_HEIGHT = 100

router = APIRouter(prefix=ADMIN_PATH, route_class=AdminRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the chart: the jobs that completed in ten minutes."""

    began_at: datetime
    count: int
    height: float  #: of CHART_HEIGHT


@router.get("")
async def get_overview(request: Request, service: CurrentService, _viewer: Viewer) -> Response:
    """Show the figures, the health checks, and the newest failures and actions."""
    findings = await find_faults(request.state.shared_runs, service, check_health)
    return await run_in_threadpool(_show_overview, request, service, findings.faults)


@router.post("/pause")
def post_pause(request: Request, service: CurrentService, operator: Operator) -> Response:
    """Let no worker take a job until somebody resumes."""
    changed = pause(service, operator.user_id)
    return redirect(request, "", "paused" if changed else "unchanged")


@router.post("/resume")
def post_resume(request: Request, service: CurrentService, operator: Operator) -> Response:
    """Let workers take jobs again."""
    changed = resume(service, operator.user_id)
    return redirect(request, "", "resumed" if changed else "unchanged")


@router.get("/actions")
def get_actions(
    request: Request, service: CurrentService, _viewer: Viewer, before: AwareDatetime | None = None
) -> Response:
    """List what operators did to the service as a whole, newest first."""
    last = clock.to_text(before) if before else None
    found = actions.list_actions(service, PAGE_LENGTH, last)
    following = found[-1]["created_at"] if len(found) == PAGE_LENGTH else None
    return render_for_admin(
        request, "actions.html", actions=found, following=following, is_first=before is None
    )


def _show_overview(request: Request, service: Service, faults: dict[str, Any]) -> Response:
    throughput = read_throughput(service)
    failed = search_jobs(service, JobFilter(status=JobStatus.FAILED), NEWEST)
    return render_for_admin(
        request,
        "overview.html",
        figures=collect_statistics(service),
        bars=draw_bars(throughput),
        peak=max(count for _, count in throughput),
        faults=faults,
        oldest_open_seconds=oldest_open_seconds(service),
        disks=measure_disks(service.settings),
        endpoints=list_states(service),
        failed=failed.jobs,
        actions=actions.list_actions(service, NEWEST),
    )


def draw_bars(throughput: list[tuple[datetime, int]]) -> list[Bar]:
    """Return the bars of the chart; the highest one fills it."""
    highest = max(1, *(count for _, count in throughput))
    return [Bar(began_at, count, CHART_HEIGHT * count / highest) for began_at, count in throughput]
