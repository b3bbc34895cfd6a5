"""Log lines on stderr, as console text or JSON.

Every line has the values that are bound to the context, such as request_id and job_id.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

#: Printable ASCII without spaces, quotation marks and "="
PLAIN_VALUE = re.compile(r"[!#-&(-<>-~]*")


class LineLogger(structlog.WriteLogger):
    """A named logger that writes to *file* directly, without the standard library's logging.

    The server logs a line for each request. ``python -m benchmarks service`` requires at least half
    as many status checks per second as the bare framework answers: this logger gets 0.58 of them,
    the standard library's 0.44.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


def configure_logs(log_format: str, log_level: str) -> None:
    """Send this process's logs to stderr, including those of uvicorn and other libraries."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _make_renderers(log_format)
    lowest_level = logging.getLevelNamesMapping()[log_level]
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=partial(LineLogger, sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(lowest_level),
        cache_logger_on_first_use=True,
    )
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[remove_meta, *renderers]
    )
    _configure_libraries(formatter, log_level)


def escape_unprintable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace characters that could control a terminal with their escapes.

    Keep tabs and line ends: the console renderer quotes values that contain white space.
    """
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _escape(value)
    return event


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(map(_escape_character, text))


def _escape_character(char: str) -> str:
    return char if char.isprintable() or char in "\t\n\r" else ascii(char)[1:-1]


def _make_renderers(log_format: str) -> list[Processor]:
    """Return the processors that turn an event into a line."""
    format_exception = structlog.processors.format_exc_info
    if log_format == "json":
        return [format_exception, structlog.processors.JSONRenderer()]
    if not sys.stderr.isatty():
        return [format_exception, render_plain]
    console = structlog.dev.ConsoleRenderer(
        # The default shows local variables, which can hold secrets, and takes seconds.
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [format_exception, escape_unprintable, console]


def render_plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return the line that structlog's ConsoleRenderer would write without colours.

    This takes 19 µs instead of 35. Without it a status check would take more than twice the CPU
    time that it takes in the bare framework (``python -m benchmarks service``).
    """
    timestamp = event.pop("timestamp", "")
    level = event.pop("level", "")
    name = event.pop("logger", "")
    message = _escape(event.pop("event", ""))
    tracebacks = [_escape(event.pop(key)) for key in ("stack", "exception") if key in event]
    pairs = [f"{key}={_quote(event[key])}" for key in sorted(event)]
    line = " ".join([f"{timestamp} [{level:9}] {message:30} [{name}]", *pairs])
    return "\n".join([line, *tracebacks])


def _quote(value: object) -> str:
    """Return *value* as it is if it is plain, else its ``repr``, which escapes characters."""
    is_plain = isinstance(value, str) and PLAIN_VALUE.fullmatch(value) is not None
    return str(value) if is_plain else repr(value)


def _configure_libraries(formatter: logging.Formatter, log_level: str) -> None:
    """Format the lines of the standard library's loggers like our own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=log_level, force=True)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        # If uvicorn was started on its own, it has already set up handlers.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # The server writes its own line for each request.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    for name in ("botocore", "boto3", "urllib3"):
        # At DEBUG they log tokens and presigned URLs.
        logging.getLogger(name).setLevel(logging.INFO)
    # At INFO it logs every start, even if there is nothing to migrate.
    logging.getLogger("alembic").setLevel(logging.WARNING)
