from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.errors import InvalidWebhookUrlError
from imageprocessor.queue.events.webhook_address import (
    MAX_URL_CHARACTERS,
    check_url,
    is_global,
    parse_url,
    resolve_host,
)

PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
#: From the registries of special addresses at IANA, and of multicast and unassigned space.
_NOT_GLOBAL = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
    224.0.0.0/4 240.0.0.0/4 168.63.129.16/32
    ::/128 ::1/128 ::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64
    100:0:0:1::/64 2001::/32 2001:2::/48 2001:10::/28 2001:20::/28 2001:db8::/32 2002::/16
    3fff::/20 4000::/3 5f00::/16 8000::/1 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
_GLOBAL = """
    1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    169.253.255.255 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.167.255.255 198.17.0.1
    223.255.255.255 2600:: 2a00:1450:4001::1 2001:4860:4860::8888 2001:200::1 2400:cb00::1
"""
NOT_GLOBAL, GLOBAL = _NOT_GLOBAL.split(), _GLOBAL.split()
#: Each is refused wherever its host leads; the second part is in the message.
HOSTILE = {
    "": "no scheme",
    "hooks.example.com/x": "no scheme",
    "//hooks.example.com/x": "no scheme",
    "http://hooks.example.com/": "scheme 'http'",
    "ftp://hooks.example.com/": "scheme 'ftp'",
    "file:///etc/passwd": "scheme 'file'",
    "gopher://hooks.example.com/_x": "scheme 'gopher'",
    "javascript:alert(1)": "scheme 'javascript'",
    "unix:///run/docker.sock": "scheme 'unix'",
    "https:hooks.example.com": "no host",
    "https:///x": "no host",
    "https://:443/": "no host",
    "https://?x": "no host",
    "https://user:pw@hooks.example.com/": "user name or password",
    "https://user@hooks.example.com/": "user name or password",
    "https://@hooks.example.com/": "user name or password",
    "https://hooks.example.com@127.0.0.1/": "user name or password",
    "https://hooks.example.com\\@127.0.0.1/": "user name or password",
    "user:pw@hooks.example.com": "user name or password",
    "https://hooks.example.com/#x": "fragment",
    "https://hooks.example.com/#": "fragment",
    "https://hooks.example.com#@127.0.0.1/": "fragment",
    " https://hooks.example.com/": "Character 1 ",
    "https://hooks.example.com/ ": "Character 27 ",
    "https://hooks.example.com/\n": "Character 27 ",
    "https://hooks.example.com/\r\nx: y": "Character 27 ",
    "ht\ttps://hooks.example.com/": "Character 3 ",
    "https://hooks.example.com/\x00": "Character 27 ",
    "https://hooks.example.com/\x7f": "Character 27 ",
    "https://hooks.example.com/ü": "Character 27 ",
    "https://bücher.example/": "Character 10 ",
    "https://ⓛocalhost/": "Character 9 ",
    "https://\uff11\uff12\uff17.0.0.1/": "Character 9 ",
    "https://127。0。0。1/": "Character 12 ",
    "https://hooks.example.com./": "host 'hooks.example.com.'",
    "https://127.0.0.1./": "host '127.0.0.1.'",
    "https://hooks..example.com/": "host 'hooks..example.com'",
    "https://.hooks.example.com/": "host '.hooks.example.com'",
    "https://-x.example.com/": "host '-x.example.com'",
    f"https://{'x' * 64}.example.com/": f"host '{'x' * 64}.example.com'",
    f"https://{'x.' * 127}com/": "host 'x.x.",
    "https://hooks.example.com\\.internal/": "host 'hooks.example.com\\\\.internal'",
    "https://%31%32%37.0.0.1/": "host '%31%32%37.0.0.1'",
    "https://2130706433/": "host '2130706433'",
    "https://0x7f000001/": "host '0x7f000001'",
    "https://0x7f.1/": "host '0x7f.1'",
    "https://127.1/": "host '127.1'",
    "https://0177.0.0.1/": "host '0177.0.0.1'",
    "https://127.0.0.0x1/": "host '127.0.0.0x1'",
    "https://hooks.example.0x/": "host 'hooks.example.0x'",
    "https://[fe80::1%25eth0]/": "host 'fe80::1%25eth0'",
    "https://[2606:2800::1%eth0]/": "host '2606:2800::1%eth0'",
    "https://[::1/": "malformed host",
    "https://127.0.0.1/": "'127.0.0.1', which is not a public address",
    "https://169.254.169.254/latest/meta-data/": "'169.254.169.254', which is not",
    "https://0.0.0.0/": "'0.0.0.0', which is not",
    "https://[::]/": "'::', which is not",
    "https://[::1]/": "'::1', which is not",
    "https://[::ffff:127.0.0.1]/": "'::ffff:127.0.0.1', which is not",
    "https://[::ffff:7f00:1]/": "'::ffff:7f00:1', which is not",
    "https://[64:ff9b::10.0.0.1]/": "'64:ff9b::10.0.0.1', which is not",
    "https://[2002:7f00:1::]/": "'2002:7f00:1::', which is not",
    "https://hooks.example.com:0/": "port",
    "https://hooks.example.com:65536/": "port",
    "https://hooks.example.com:-1/": "port",
    "https://hooks.example.com:https/": "port",
    f"https://hooks.example.com/{'x' * MAX_URL_CHARACTERS}": "2074 characters",
}


def to_public(_host: str) -> list[str]:
    return [PUBLIC]


@pytest.mark.parametrize(("url", "reason"), HOSTILE.items())
def test_hostile_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidWebhookUrlError) as caught:
        check_url(url, allows_private=False, resolve=to_public)
    assert reason in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com",
        "https://hooks.example.com/x?token=y@z",
        "HTTPS://Hooks.Example.COM:8443/x",
        "https://xn--bcher-kva.example/",
        "https://my_hooks.example.com/@x",
        f"https://{PUBLIC}/",
        f"https://[{PUBLIC_V6}]:8443/",
    ],
)
def test_public_url_is_accepted(url: str) -> None:
    check_url(url, allows_private=False, resolve=to_public)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        [PUBLIC_V6, "fd00::1"],
        ["fe80::1%eth0"],
        ["64:ff9b::5db8:d70e"],
    ],
)
def test_host_with_one_address_that_is_not_public_is_refused(addresses: Sequence[str]) -> None:
    with pytest.raises(InvalidWebhookUrlError, match=r"'hooks\.example\.com' leads to '[0-9f]"):
        check_url("https://hooks.example.com/", allows_private=False, resolve=lambda _: addresses)


def test_localhost_is_refused_by_its_real_addresses() -> None:
    with pytest.raises(InvalidWebhookUrlError, match="'localhost' leads to"):
        check_url("https://localhost/", allows_private=False)


def test_host_that_does_not_resolve_is_refused() -> None:
    def fail(_host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve, reason in ((fail, "Name or service not known"), (lambda _: [], "no address")):
        with pytest.raises(InvalidWebhookUrlError, match=reason):
            check_url("https://hooks.example.com/", allows_private=False, resolve=resolve)


@pytest.mark.parametrize("host", ["receiver", "receiver:8000", "10.0.0.1", "[::1]:8000"])
def test_operator_may_allow_private_addresses_and_http(host: str) -> None:
    def must_not_resolve(_host: str) -> list[str]:
        raise AssertionError("a private name may not exist yet")

    check_url(f"http://{host}/", allows_private=True, resolve=must_not_resolve)


@pytest.mark.parametrize("url", ["https://u:pw@receiver/", "ftp://receiver/", "http://127.1/"])
def test_form_of_the_url_counts_also_where_private_addresses_are_allowed(url: str) -> None:
    with pytest.raises(InvalidWebhookUrlError):
        check_url(url, allows_private=True)


def test_parts_of_a_url() -> None:
    address = parse_url("http://[::1]:8000?x=1", allows_private=True)
    assert (address.uses_tls, address.host, address.port) == (False, "::1", 8000)
    assert (address.authority, address.target) == ("[::1]:8000", "/?x=1")
    address = parse_url("https://Hooks.example.com:443/a%20b", allows_private=False)
    assert (address.uses_tls, address.host, address.port) == (True, "hooks.example.com", 443)
    assert (address.authority, address.target) == ("hooks.example.com", "/a%20b")


def test_system_resolver_returns_each_address_once() -> None:
    addresses = resolve_host("localhost")
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert len(addresses) == len(set(addresses)) > 0


@given(st.sampled_from(NOT_GLOBAL).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_special_network_is_global(address: object) -> None:
    assert not is_global(str(address))


@pytest.mark.parametrize("network", NOT_GLOBAL)
def test_no_end_of_a_special_network_is_global(network: str) -> None:
    ends = ip_network(network)
    assert not is_global(str(ends[0]))
    assert not is_global(str(ends[-1]))


@pytest.mark.parametrize("address", GLOBAL)
def test_neighbors_of_special_networks_are_global(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "16843009", "01.1.1.1", "1.1.1.1/32", "2606:2800::1%1", "1.1.1.1 "]
)
def test_text_that_is_no_plain_address_is_not_global(text: str) -> None:
    assert not is_global(text)
