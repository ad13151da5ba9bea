"""Whether only this machine can reach an address."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach ``address``; an empty one means every interface."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
