"""Building the application: its routes, middleware and lifespan."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

import imageprocessor
from imageprocessor.environment import load_settings
from imageprocessor.logs import configure_logs
from imageprocessor.queue.metrics_port import serve_metrics
from imageprocessor.queue.service import open_service
from imageprocessor.server.events.poller import EventPoller
from imageprocessor.server.middleware.cors import Cors
from imageprocessor.server.middleware.lingering_close import LingeringClose
from imageprocessor.server.middleware.request_log import RequestLog
from imageprocessor.server.middleware.security_headers import DOCS_PATH, SecurityHeaders
from imageprocessor.server.middleware.unexpected_errors import UnexpectedErrors
from imageprocessor.server.openapi import build_openapi
from imageprocessor.server.problems import add_problem_handlers
from imageprocessor.server.routes import (
    batches,
    events,
    files,
    health,
    images,
    index,
    jobs,
    metrics,
    upload_page,
    uploads,
)
from imageprocessor.server.threads import StorageThreads
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys

ROUTERS = (
    jobs.router,
    events.router,
    images.router,
    batches.router,
    uploads.router,
    files.router,
    health.router,
    index.router,
    upload_page.router,
)
DESCRIPTION = "Turns uploads into clean, upright, metadata-free web images in several sizes."


def create_app_from_environment() -> FastAPI:
    """Return the application for the settings in the environment; a factory for ASGI servers."""
    settings = load_settings(os.environ)
    configure_logs(settings.log_format, settings.log_level)
    # python_multipart logs a warning for every malformed form.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    app = create_app(settings)
    # Everything loaded so far is permanent. Without this, garbage collection takes 0.08 ms of each
    # status check's 0.6 ms, and 15 % of an upload's CPU time (`python -m benchmarks service`).
    gc.freeze()
    return app


def create_app(settings: Settings) -> FastAPI:
    """Return the application for *settings*; it opens the service on startup."""
    app: FastAPI = FastAPIOffline(
        docs_url=DOCS_PATH,
        redoc_url=None,
        title=settings.service_name,
        version=settings.version or imageprocessor.__version__,
        description=DESCRIPTION,
        lifespan=_make_lifespan(settings),
        middleware=_list_middleware(settings),
        redirect_slashes=False,
    )
    # Insert the routes before those of /docs. include_router would match each request's path
    # twice, which costs 0.05 ms of a status check's 0.47 ms: more than its budget has to spare
    # (`python -m benchmarks service`).
    app.state.routes = [route for router in _list_routers(settings) for route in router.routes]
    app.router.routes[:0] = app.state.routes
    add_problem_handlers(app)
    setattr(app, "openapi", partial(build_openapi, app, settings))  # noqa: B010 - the documented way
    return app


def _list_routers(settings: Settings) -> Sequence[APIRouter]:
    routers = list(ROUTERS)
    if settings.metrics_token is not None:
        routers.append(metrics.router)
    if settings.admin_ui:
        from imageprocessor.server.admin import router as admin  # noqa: PLC0415 - imports Jinja2

        routers += admin.ROUTERS
    return routers


def _make_lifespan(
    settings: Settings,
) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        _end_with_parent()
        with (
            open_service(settings) as service,
            serve_metrics(service),
            closing(StorageThreads()) as threads,
        ):
            yield {
                "service": service,
                "keys": load_keys(settings),
                "storage_threads": threads,
                "event_poller": EventPoller(service),
                "shared_runs": {},
            }

    return lifespan


def _end_with_parent() -> None:
    """If this is one of several API processes, end it when its parent dies."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(parent.sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent.sentinel, end)


def _list_middleware(settings: Settings) -> list[Middleware]:
    """Return the middleware, outermost first."""
    return [
        Middleware(LingeringClose),
        Middleware(RequestLog),
        Middleware(SecurityHeaders),
        Middleware(Cors, origins=settings.cors_origins),
        Middleware(UnexpectedErrors),
    ]
