"""Hosts for tests: network namespaces on one bridge, which is a namespace of its own and has the services.

A process lives on the host whose namespace the thread was in that started it, and so do its sockets; files
are shared by all. Whatever listens here is reachable from these namespaces only.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

CLONE_NEWNET = 0x40000000
SERVICES_ADDRESS = "10.77.0.1"
NETWORK = "10.77.0.0/24"
_NUMBERS = itertools.count()

MOVE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
with open({namespace!r}) as there:
    moved = libc.setns(there.fileno(), 0x40000000) or libc.unshare(0x04000000)  # CLONE_NEWNET, CLONE_NEWUTS
assert not moved, os.strerror(ctypes.get_errno())
socket.sethostname({name!r})
"""
"""Begins the program of a process that is to live on a host and to have its name."""


class NotPermittedError(Exception):
    """This machine, or this user, cannot have network namespaces; says why."""


class Host:
    """A host with one cable to the bridge."""

    def __init__(self, name: str, namespace: str, bridge: str, port: str) -> None:
        self.name = name
        self.namespace = Path("/run/netns", namespace)
        self._bridge = bridge
        self._port = port

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread, and what it starts, be on the host; sockets made meanwhile stay there."""
        with Path("/proc/thread-self/ns/net").open() as home, self.namespace.open() as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    @property
    def program(self) -> str:
        """Python code that brings the process that runs it here."""
        return MOVE.format(namespace=str(self.namespace), name=self.name)

    def unplug(self) -> None:
        """Pull the cable: what is sent vanishes, and nobody is told."""
        _ip("-n", self._bridge, "link", "set", self._port, "down")

    def plug_in(self) -> None:
        """Put it back."""
        _ip("-n", self._bridge, "link", "set", self._port, "up")


class Hosts:
    """The services' host, which is the bridge, and others around it."""

    def __init__(self, services: Host, others: list[Host]) -> None:
        self.services = services
        self.others = others


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Make ``count`` hosts beside the services' own, and remove everything.

    Raises:
        NotPermittedError: they cannot be had here.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NotPermittedError("network namespaces take Linux and root")
    prefix = f"alexq-{os.getpid()}-{next(_NUMBERS)}"
    with ExitStack() as made:
        try:
            bridge = _namespace(made, f"{prefix}-services")
            _ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
            _ip("-n", bridge, "address", "add", f"{SERVICES_ADDRESS}/24", "dev", "bridge")
            _ip("-n", bridge, "link", "set", "bridge", "up")
            others = [_plugged_in(made, prefix, bridge, number) for number in range(1, count + 1)]
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise NotPermittedError(f"no network namespaces here: {reason}") from error
        yield Hosts(Host("services", bridge, bridge, "bridge"), others)


def _plugged_in(made: ExitStack, prefix: str, bridge: str, number: int) -> Host:
    namespace, port = _namespace(made, f"{prefix}-{number}"), f"port{number}"
    _ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "cable", "netns", namespace)
    _ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
    _ip("-n", namespace, "address", "add", f"10.77.0.{10 + number}/24", "dev", "cable")
    _ip("-n", namespace, "link", "set", "cable", "up")
    return Host(f"host-{number}", namespace, bridge, port)


def _namespace(made: ExitStack, name: str) -> str:
    _ip("netns", "add", name)
    made.callback(_remove, name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _remove(name: str) -> None:
    """Remove a namespace; its interfaces go with it when the last process in it has ended."""
    with suppress(subprocess.CalledProcessError):
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=120)


def _setns(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
