"""Hosts as network namespaces with addresses and names; each can be cut off from the network."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import missing, require_program
from tests.servers.processes import run_process, wait_for

NAMED = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'


@dataclass(frozen=True, slots=True)
class Host:
    """A host on the switch *switch*, to which this machine is connected, too."""

    name: str
    address: str
    switch: str

    def run(
        self, command: Sequence[str], log: Path, **options: Any
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run *command* on this host as `tests.servers.processes.run_process` does."""
        enter = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", NAMED, self.name]
        return run_process([*enter, *command], log, **options)

    def wait_for_port(self, port: int) -> None:
        """Wait until something listens on *port* of this host."""
        wait_for(lambda: self._listens(port))

    def cut_off(self) -> None:
        """Disconnect this host from the switch."""
        _ip("-n", self.switch, "link", "set", self.name, "down")

    def reconnect(self) -> None:
        _ip("-n", self.switch, "link", "set", self.name, "up")

    def _listens(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.address, port)) == 0


@contextmanager
def run_hosts(*names: str) -> Iterator[list[Host]]:
    """Create a host for each of *names*, with a suffix unique to this run; finally delete them."""
    _require_namespaces()
    mark = secrets.token_hex(2)
    # RFC 2544 reserves 198.18.0.0/15 for tests.
    subnet = f"198.{18 + os.getpid() // 256 % 2}.{os.getpid() % 256}"
    switch = f"switch-{mark}"
    hosts = [
        Host(f"{name}-{mark}", f"{subnet}.{number}", switch) for number, name in enumerate(names, 1)
    ]
    with ExitStack() as undo:
        for namespace in (switch, *(host.name for host in hosts)):
            _ip("netns", "add", namespace)
            undo.callback(_ip, "netns", "delete", namespace)
        _ip("-n", switch, "link", "add", "bridge", "up", "type", "bridge")
        _plug_in(switch, f"tests-{mark}", f"{subnet}.254")
        undo.callback(_ip, "link", "delete", f"tests-{mark}")
        for host in hosts:
            _plug_in(switch, host.name, host.address, "-n", host.name)
        yield hosts


def _plug_in(switch: str, port: str, address: str, *namespace: str) -> None:
    """Connect *namespace*, or this machine, to *switch* by an interface *port* with *address*."""
    _ip(*namespace, "link", "add", port, "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    _ip(*namespace, "address", "add", f"{address}/24", "dev", port)
    _ip(*namespace, "link", "set", port, "up")
    _ip(*namespace, "link", "set", "lo", "up")


def _require_namespaces() -> None:
    require_program("ip")
    trial = subprocess.run(
        [require_program("unshare"), "--net", "--uts", "true"], capture_output=True, check=False
    )
    if os.geteuid() != 0 or trial.returncode != 0:
        missing(f"only root may create network namespaces: {trial.stderr.decode().strip()}")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
