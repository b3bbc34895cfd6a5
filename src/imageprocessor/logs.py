"""Log lines on stderr, as console text or JSON. What is bound to the context (request_id, job_id) is on every line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import Processor


def configure_logs(log_format: str, log_level: str) -> None:
    """Send this process's logs, also those of uvicorn and other libraries, to stderr in *log_format*."""
    shared: Sequence[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=_renderers(log_format), foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], level=log_level, force=True)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()  # where uvicorn was started by itself, it has set up its own
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # the server writes its own line of each request
    for name in ("botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)  # at DEBUG they tell tokens and signed addresses
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it reports every start, also where nothing is migrated


def _renderers(log_format: str) -> list[Processor]:
    drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "json":
        return [drop_meta, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The default would draw tracebacks with the values of local variables: secrets, and seconds of work.
    plain = structlog.dev.plain_traceback
    return [drop_meta, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
