"""Checking where a webhook leads: the form of its URL, and the addresses of its host.

A URL is refused if this check and the resolver or the TLS library could understand it differently.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from imageprocessor.errors import InvalidWebhookUrlError

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a host name, or raises OSError if it has none."""

MAX_URL_CHARACTERS = 2048
PORTS = {"https": 443, "http": 80}
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?P<last>{_LABEL})")
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")  # the system resolver reads 0x7f.1 as 127.0.0.1
_GLOBAL_V6 = ip_network("2000::/3")
#: Networks without public servers that `ipaddress` calls global, at least in some Pythons.
_SPECIAL = [
    ip_network("168.63.129.16/32"),  # Azure's host agent
    ip_network("192.0.0.0/24"),  # protocols; metadata of Oracle's cloud
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("2001::/23"),  # protocols, among them Teredo
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4
    ip_network("3fff::/20"),  # documentation
]


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """The parts of a webhook's URL."""

    uses_tls: bool
    host: str  #: in lower case; an IPv6 address has no brackets
    port: int
    authority: str  #: host and port as in the header ``Host``
    target: str  #: path and query as in the request line


def resolve_host(host: str) -> list[str]:
    """Return the addresses of *host* in the order of the system's preference."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    return list(dict.fromkeys(addresses))


def check_url(url: str, *, allows_private: bool, resolve: Resolve = resolve_host) -> None:
    """Raise InvalidWebhookUrlError unless webhooks may be sent to *url*.

    With *allows_private* HTTP and every address are accepted, and the host is not resolved: a host
    of a private network may not have a name yet.
    """
    address = parse_url(url, allows_private=allows_private)
    if not allows_private:
        find_addresses(address.host, allows_private=False, resolve=resolve)


def parse_url(url: str, *, allows_private: bool) -> WebhookAddress:
    """Return the parts of *url*, or raise InvalidWebhookUrlError.

    The messages contain nothing that may be a password or the token in a path or query.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidWebhookUrlError(
            f"The URL has {len(url)} characters, more than {MAX_URL_CHARACTERS}. Shorten it."
        )
    if unusual := re.search("[^!-~]", url):
        raise InvalidWebhookUrlError(
            f"Character {unusual.start() + 1} of the URL is not printable ASCII. Percent-encode "
            "it, or in the host use the form xn--…."
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidWebhookUrlError(
            "The URL has a malformed host. Write it like https://hooks.example.com/path."
        ) from error
    # Without a scheme, "user:password@host" looks like the scheme "user".
    if "@" in (parts.netloc or url):
        raise InvalidWebhookUrlError(
            "The URL has a user name or password. Remove it; receivers check the signature instead."
        )
    _check_scheme(parts.scheme, allows_private=allows_private)
    if "#" in url:
        raise InvalidWebhookUrlError("The URL has a fragment, which is never sent. Remove '#…'.")
    host = _check_host(parts.hostname or "")
    port = _check_port(parts)
    authority = f"[{host}]" if ":" in host else host
    if port != PORTS[parts.scheme]:
        authority += f":{port}"
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return WebhookAddress(parts.scheme == "https", host, port, authority, target)


def _check_scheme(scheme: str, *, allows_private: bool) -> None:
    if not scheme:
        raise InvalidWebhookUrlError("The URL has no scheme. Write https:// before the host.")
    if scheme not in PORTS:
        raise InvalidWebhookUrlError(f"The URL has the scheme {scheme!r}. Use https.")
    if scheme == "http" and not allows_private:
        raise InvalidWebhookUrlError(
            "The URL has the scheme 'http'. Use https; http needs private addresses to be allowed."
        )


def _check_host(host: str) -> str:
    if not host:
        raise InvalidWebhookUrlError("The URL has no host. Write one after https://.")
    if _is_address(host) and "%" not in host:
        return host
    name = _HOST_NAME.fullmatch(host)
    if name is None or _NUMBER.fullmatch(name["last"]):
        raise InvalidWebhookUrlError(
            f"The URL has the host {host!r}. Use a DNS name such as hooks.example.com, without a "
            "dot at the end, or an IP address in its usual form."
        )
    return host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_port(parts: SplitResult) -> int:
    try:
        port = PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise InvalidWebhookUrlError(
            "The URL's port is not a number from 1 to 65535. Correct or remove it."
        )
    return port


def find_addresses(host: str, *, allows_private: bool, resolve: Resolve) -> Sequence[str]:
    """Return the addresses of *host*.

    Raises:
        InvalidWebhookUrlError: It has none, or without *allows_private* one that is not global,
            even beside others that are.
    """
    try:
        addresses = [host] if _is_address(host) else resolve(host)
    except OSError as error:
        reason = error.strerror or "it has no address"
        raise InvalidWebhookUrlError(
            f"Cannot resolve {host!r}: {reason}. Check the URL's host and this machine's DNS."
        ) from error
    if not addresses:
        raise InvalidWebhookUrlError(f"{host!r} has no address. Check the URL's host.")
    for address in addresses:
        if not allows_private and not is_global(address):
            leads = "" if address == host else f"{host!r} leads to "
            raise InvalidWebhookUrlError(
                f"{leads}{address!r}, which is not a public address. Use a public host, or allow "
                "private addresses."
            )
    return addresses


def is_global(address: str) -> bool:
    """Return whether *address* is a unicast IP address of the public Internet.

    >>> is_global("93.184.215.14"), is_global("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    (True, True)

    Private networks are not, nor this machine, its link or the network of its provider:

    >>> is_global("10.1.2.3"), is_global("127.0.0.1"), is_global("169.254.169.254")
    (False, False, False)
    >>> is_global("100.64.0.1"), is_global("fd00::1"), is_global("fe80::1")
    (False, False, False)

    Neither are IPv6 addresses that contain an IPv4 address or have a zone, since a gateway or the
    operating system chooses where they lead:

    >>> is_global("::ffff:93.184.215.14"), is_global("64:ff9b::5db8:d70e")
    (False, False)
    >>> is_global("2002:5db8:d70e::1"), is_global("2606:2800::1%eth0")
    (False, False)
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and (ip.scope_id or ip not in _GLOBAL_V6):
        return False
    is_special = any(ip in network for network in _SPECIAL)
    return ip.is_global and not ip.is_multicast and not is_special
