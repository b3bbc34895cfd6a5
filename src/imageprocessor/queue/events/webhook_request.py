"""Sending one signed webhook, as Standard Webhooks 1.0 describes it.

The receiver is not trusted: it may answer slowly, endlessly or not at all, or move its name to an
address of this network. So the name is resolved once, all its addresses are checked, and the
connection goes to one of those. Proxies, redirects and cookies are not used.
"""

from __future__ import annotations

import base64
import io
import math
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

import imageprocessor
from imageprocessor.errors import (
    ImageProcessorError,
    SettingsError,
    WebhookSecretInvalidError,
)
from imageprocessor.queue.events.webhook_address import (
    Resolve,
    WebhookAddress,
    find_addresses,
    parse_url,
    resolve_host,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_ANSWER_BYTES = 64 * 1024  #: of head and body together
MAX_RETRY_AFTER_SECONDS = 24 * 60 * 60.0
SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
SECRET_BYTES = range(24, 65)


@dataclass(frozen=True, slots=True)
class Reply:
    """How a receiver replied to one webhook, or why it did not."""

    status: int | None
    error: str | None  #: short, and without anything that the receiver wrote; None after a success
    retry_after_seconds: float | None  #: from ``Retry-After``, at most a day
    seconds: float  #: how long it all took

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has accepted the webhook."""
        return self.status is not None and self.status // 100 == 2

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more webhooks."""
        return self.status == HTTPStatus.GONE


def make_secret() -> str:
    """Return a new random secret."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(32)).decode()


def check_secret(secret: str) -> None:
    """Raise WebhookSecretInvalidError unless *secret* has the form that the standard requires."""
    remedy = "Generate one: echo whsec_$(openssl rand -base64 32)"
    if not secret.startswith(SECRET_PREFIX):
        raise WebhookSecretInvalidError(
            f"The webhook secret does not start with {SECRET_PREFIX!r}. {remedy}"
        )
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise WebhookSecretInvalidError(
            f"The webhook secret is not base64 after {SECRET_PREFIX!r}. {remedy}"
        ) from error
    if len(key) not in SECRET_BYTES:
        raise WebhookSecretInvalidError(
            f"The webhook secret has {len(key)} bytes, not 24 to 64. {remedy}"
        )


def sign(secrets: Sequence[str], message_id: str, moment: datetime, body: bytes) -> str:
    """Return the header ``webhook-signature``: a signature of UTF-8 *body* by each secret."""
    utc = moment.astimezone(UTC)  # the library would take the digits of any time zone for UTC
    text = body.decode()
    return " ".join(Webhook(secret).sign(message_id, utc, text) for secret in secrets)


def send(  # noqa: PLR0913 - named, and each belongs to one webhook
    url: str,
    body: bytes,
    *,
    message_id: str,
    secrets: Sequence[str],
    moment: datetime,
    allows_private: bool,
    timeout_seconds: float = 15,
    resolve: Resolve = resolve_host,
    ca_file: Path | None = None,
) -> Reply:
    """Send *body* to *url* once and return the reply; a failure is part of it, not raised.

    *moment* is the time of this try, with a time zone. All but the name resolution, for which the
    system has its own limits, ends after *timeout_seconds*. Certificates of the authorities in
    *ca_file* are accepted besides those that the system trusts.
    """
    started = time.monotonic()
    deadline = started + timeout_seconds
    headers = {
        "connection": "close",
        "content-type": "application/json",
        "user-agent": f"imageprocessor/{imageprocessor.__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(math.floor(moment.timestamp())),
        "webhook-signature": sign(secrets, message_id, moment, body),
    }
    status, retry_after = None, None
    try:
        address = parse_url(url, allows_private=allows_private)
        addresses = find_addresses(address.host, allows_private=allows_private, resolve=resolve)
        with _connect(address, addresses, deadline, ca_file) as connected:
            line = _LimitedSocket(connected, deadline)
            status, retry_after = _post(line, address, headers, body)
        error = _describe_status(status)
    except (ImageProcessorError, HTTPException, OSError) as failure:
        error = _describe_failure(failure, timeout_seconds)
    delay = _read_retry_after(retry_after, moment)
    return Reply(status, error, delay, time.monotonic() - started)


@contextmanager
def _connect(
    address: WebhookAddress, addresses: Sequence[str], deadline: float, ca_file: Path | None
) -> Iterator[socket.socket]:
    """Yield a connection to the first of *addresses* that accepts one, with TLS if needed."""
    context = _open_trust_store(ca_file) if address.uses_tls else None
    with _connect_to_first(addresses, address.port, deadline) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            yield plain
            return
        plain.settimeout(_seconds_until(deadline))  # of the whole handshake
        with context.wrap_socket(plain, server_hostname=address.host) as encrypted:
            yield encrypted


@cache  # reading the system's certificates takes longer than a request; a new file needs a restart
def _open_trust_store(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise SettingsError(
                f"Cannot read certificates from {str(ca_file)!r}: {error.strerror}. Use a PEM file "
                "that this process may read."
            ) from error
    return context


def _connect_to_first(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    failures: list[OSError] = []
    for address in addresses:
        # Share the time, so that an address that drops packets leaves some for the next.
        addresses_left = len(addresses) - len(failures)
        try:
            seconds = _seconds_until(deadline) / addresses_left
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as failure:
            failures.append(failure)
    raise failures[-1]


def _post(
    line: _LimitedSocket, address: WebhookAddress, headers: dict[str, str], body: bytes
) -> tuple[int, str | None]:
    """Return the status of the answer and its ``Retry-After``."""
    connection = HTTPConnection(address.host, address.port)
    connection.sock = line
    connection.request("POST", address.target, body, {"host": address.authority, **headers})
    response = connection.getresponse()
    # Only the status counts, but to close the connection now would be an error for the receiver.
    with suppress(OSError, HTTPException, ValueError):  # ValueError: the size of a chunk is -2
        response.read()
    return response.status, response.getheader("Retry-After")


class _LimitedSocket(io.RawIOBase):
    """A socket for http.client with a deadline for all operations and a limit for all that arrives.

    A plain socket limits each operation, so that an answer of one byte a second would never end.
    And http.client reads a head of 6 MB, and a chunk whose size is -1 until memory is full.
    """

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected = connected
        self._deadline = deadline
        self._bytes_left = MAX_ANSWER_BYTES

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._connected.settimeout(_seconds_until(self._deadline))
            rest = rest[self._connected.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        space = memoryview(buffer)[: self._bytes_left]
        if not space:
            return 0
        self._connected.settimeout(_seconds_until(self._deadline))
        count = self._connected.recv_into(space)
        self._bytes_left -= count
        return count

    def close(self) -> None:
        """Do nothing: http.client closes a socket before it has read the body."""


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _describe_status(status: int) -> str | None:
    if status // 100 == 2:
        return None
    if status // 100 == 3:
        return f"answered {status}: redirects are not followed"
    return f"answered {status}"


def _describe_failure(failure: Exception, timeout_seconds: float) -> str:
    match failure:
        case ImageProcessorError():
            return str(failure)
        case TimeoutError():
            return f"timed out after {timeout_seconds:g} s"
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {failure.verify_message}"
        case ssl.SSLError():
            reason = (failure.reason or "unknown error").lower().replace("_", " ")
            return f"TLS failed: {reason}"
        case RemoteDisconnected():
            return "connection closed without an answer"
        case OSError():
            return (failure.strerror or type(failure).__name__).lower()
    return "the answer is not HTTP"


def _read_retry_after(value: str | None, moment: datetime) -> float | None:
    """Return the seconds that the header *value* asks to wait after *moment*.

    >>> moment = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    >>> _read_retry_after("120", moment)
    120.0
    >>> _read_retry_after("Sat, 28 Nov 2026 12:00:30 GMT", moment)
    30.0
    >>> _read_retry_after("soon", moment)
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            seconds = (parsedate_to_datetime(text) - moment).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
