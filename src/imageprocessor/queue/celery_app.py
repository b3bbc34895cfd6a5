"""The Celery application that ``celery -A imageprocessor.queue.celery_app`` loads.

Importing this module reads no settings and builds nothing: ``app`` is built on first access.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from imageprocessor.environment import load_settings
from imageprocessor.errors import SettingsError
from imageprocessor.queue.workers.celery_worker import CeleryWorker


def build_app() -> Any:
    """Return a worker's Celery application, with settings from the environment."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.exit(f"error: {error}")
    if settings.queue_backend != "celery":
        sys.exit(
            f"error: QUEUE_BACKEND={settings.queue_backend}: these workers would never get a job. "
            "Set QUEUE_BACKEND=celery here and where the API runs."
        )
    return CeleryWorker(settings).app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = build_app()
    return app
