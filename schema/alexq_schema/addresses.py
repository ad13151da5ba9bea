"""Which IP addresses a URL that somebody else names may lead to.

``ipaddress`` knows the registries; what it counts as global although nobody's public server is there is
named here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

_V6_GLOBAL: Final = IPv6Network("2000::/3")
"""Everything else is loopback, mapped, local, multicast, a tunnel's or not handed out."""

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""An IPv4 address, as hosts without IPv4 are told it (RFC 6052): as good as the address inside."""

_NOBODYS: Final[tuple[IPv4Network | IPv6Network, ...]] = (
    IPv4Network("192.0.0.0/24"),  # IETF protocols; Oracle's metadata service
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv4Network("168.63.129.16/32"),  # Azure's metadata service, in a public range
    IPv4Network("224.0.0.0/3"),  # multicast, reserved, broadcast
    IPv6Network("2001::/23"),  # IETF protocols, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address, of any kind, inside
    IPv6Network("3fff::/20"),  # documentation
)

_IN_HOUSE: Final[tuple[IPv4Network | IPv6Network, ...]] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
)
"""Where one's own servers are; link-local addresses, which metadata services use, are not among them."""

_METADATA: Final = frozenset(map(ip_address, ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")))
"""Services among those that give a cloud machine's credentials to whoever asks."""

_ISATAP: Final = frozenset((0x0000_5EFE, 0x0200_5EFE))
"""Upper half of an interface identifier whose lower half is an IPv4 address (RFC 5214)."""


def is_public(address: Address) -> bool:
    """Return whether a server of anybody's may be at ``address``."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _V6_GLOBAL or address.scope_id or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return False
    return address.is_global and not any(address in network for network in _NOBODYS)


def is_in_house(address: Address) -> bool:
    """Return whether a server of one's own may be at ``address``: loopback and private networks."""
    return address not in _METADATA and any(address in network for network in _IN_HOUSE)
