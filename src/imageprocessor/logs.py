"""Log lines on stderr, as console text or JSON.

What is bound to the context (request_id, job_id) is on every line.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

SAFE = re.compile(r"[!#-&(-<>-~]*")  # printable ASCII without blanks, quotation marks and "="


class LineLogger(structlog.WriteLogger):
    """Where this package's own lines end: past the standard library, which takes thrice as long."""

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


def configure_logs(log_format: str, log_level: str) -> None:
    """Send this process's logs, also those of uvicorn and other libraries.

    To stderr in *log_format*.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(log_format)
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=partial(LineLogger, sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log_level]
        ),
        cache_logger_on_first_use=True,
    )
    _configure_libraries(shared, renderers, log_level)


def _configure_libraries(
    shared: list[Processor], renderers: list[Processor], log_level: str
) -> None:
    """Give the lines of the standard library's loggers the same form."""
    drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[drop_meta, *renderers], foreign_pre_chain=shared
        )
    )
    logging.basicConfig(handlers=[handler], level=log_level, force=True)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(
            name
        ).handlers.clear()  # where uvicorn was started by itself, it has set up its own
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").setLevel(
        logging.WARNING
    )  # the server writes its own line of each request
    for name in ("botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(
            logging.INFO
        )  # at DEBUG they tell tokens and signed addresses
    logging.getLogger("alembic").setLevel(
        logging.WARNING
    )  # it reports every start, also where nothing is migrated


def _renderers(log_format: str) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if not sys.stderr.isatty():
        return [structlog.processors.format_exc_info, render_plain]
    # The default would draw tracebacks with the values of local variables: secrets, and seconds of
    # work.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def render_plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return the line that structlog's ConsoleRenderer writes without colours.

    In a fifth of its time.
    """
    moment, level, name, told = (
        event.pop(key, "") for key in ("timestamp", "level", "logger", "event")
    )
    blocks = [block for key in ("stack", "exception") if (block := event.pop(key, None))]
    pairs = [f"{key}={_quote(event[key])}" for key in sorted(event)]
    return "\n".join([" ".join([f"{moment} [{level:9}] {told:30} [{name}]", *pairs]), *blocks])


def _quote(value: object) -> str:
    return value if isinstance(value, str) and SAFE.fullmatch(value) else repr(value)
