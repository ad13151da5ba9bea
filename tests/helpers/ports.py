"""Ports for servers that will listen some seconds later; nobody else takes them meanwhile.

A port that the system says is free may be gone when a process that takes seconds to start comes to it: the
system gives such numbers to whoever asks next. Those below its range it gives to nobody; each of xdist's
processes has a part of them, and goes round in it.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from alexq.stack import environment

LOWEST = 10_000
USUAL = 32_768
"""Where Linux begins."""
LOOPBACK = "127.0.0.1"


def _first_given_by_the_system() -> int:
    with suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if first >= 2 * LOWEST:  # else there is no room below it
            return first
    return USUAL


def _round() -> Iterator[int]:
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    size = (_first_given_by_the_system() - LOWEST) // parts
    start = random.randrange(size)
    return (LOWEST + number * size + (start + step) % size for step in itertools.count())


_PORTS = _round()


def free_port(address: str = LOOPBACK) -> int:
    """Return a port on which nobody listens."""
    return next(port for port in _PORTS if environment.free_port(address, port) == port)


def two_free_ports(address: str = LOOPBACK) -> int:
    """Return a port on which nobody listens, as on the one after it."""
    first = free_port(address)
    while (second := free_port(address)) != first + 1:
        first = second
    return first
