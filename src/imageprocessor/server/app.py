"""The application: its parts put together, and the service opened for as long as it runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import imageprocessor
from imageprocessor.environment import load_settings
from imageprocessor.logs import configure_logs
from imageprocessor.queue.service import open_service
from imageprocessor.server.middleware.lingering_close import LingeringClose
from imageprocessor.server.middleware.request_log import ID_HEADER, RequestLog
from imageprocessor.server.middleware.security_headers import DOCS_PATH, SecurityHeaders
from imageprocessor.server.openapi import build_openapi
from imageprocessor.server.problems import UnexpectedErrors, add_problem_handlers
from imageprocessor.server.quota_headers import NAMES
from imageprocessor.server.routes import files, health, images, jobs
from imageprocessor.server.storage_turns import open_turns
from imageprocessor.settings import Settings
from imageprocessor.tokens import load_keys

ROUTERS = (
    jobs.router,
    images.direct_router,
    images.router,
    files.direct_router,
    files.router,
    health.router,
)
DESCRIPTION = "Turns uploads into clean, upright, metadata-free WebP images in several sizes."


def create_app(settings: Settings) -> FastAPI:
    """Return the application for *settings*.

    It opens the service when it starts, in the process that runs it.
    """
    app: FastAPI = FastAPIOffline(
        docs_url=DOCS_PATH,
        redoc_url=None,
        title=settings.service_name,
        version=settings.version or imageprocessor.__version__,
        description=DESCRIPTION,
        lifespan=_make_lifespan(settings),
        middleware=_make_middleware(settings),
        redirect_slashes=False,
    )
    app.state.routes = [route for router in ROUTERS for route in router.routes]
    app.router.routes[:0] = (
        app.state.routes
    )  # first: include_router would put them last, and look into routers
    add_problem_handlers(app)
    setattr(app, "openapi", partial(build_openapi, app, settings))  # noqa: B010 - the documented way
    return app


def create_app_from_environment() -> FastAPI:
    """Return the application for the settings in the environment.

    What an ASGI server calls as a factory.
    """
    settings = load_settings(os.environ)
    configure_logs(settings.log_format, settings.log_level)
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # it warns of every malformed form
    app = create_app(settings)
    # what is there by now stays: the collector need not look through it again and again
    gc.freeze()
    return app


def _make_lifespan(
    settings: Settings,
) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        _end_with_parent()
        with open_service(settings) as service, open_turns(service) as turns:
            yield {
                "service": service,
                "keys": load_keys(settings),
                "turns": turns,
                "examinations": {},
            }

    return lifespan


def _make_middleware(settings: Settings) -> list[Middleware]:
    """Return the layers around the routes, outermost first."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_credentials=True,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", ID_HEADER],
        expose_headers=[*NAMES, "Retry-After", ID_HEADER],
    )
    return [
        Middleware(LingeringClose),
        Middleware(RequestLog),
        Middleware(SecurityHeaders),
        *([cors] if settings.cors_origins else []),
        Middleware(UnexpectedErrors),
    ]


def _end_with_parent() -> None:
    """Where this process is one of several under a parent, end it when the parent dies.

    However that happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def end() -> None:
        loop.remove_reader(sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(sentinel, end)
