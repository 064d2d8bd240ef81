"""Which network addresses a download may connect to, where the URL comes from somebody who is not trusted.

A name is resolved once, every address that it has is checked, and the connection goes to the checked address itself: a
name that means another address a moment later changes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import requests

from .connections import BoundedAdapter, OnSocket

Address = IPv4Address | IPv6Address
AddressPolicy = Callable[[Address], bool]
"""Says whether an address may be connected to."""

_GLOBAL_UNICAST = ip_network("2000::/3")
"""All that IANA has given out for the open Internet in IPv6."""
_SPECIAL = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
            "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
            "2001::/23",  # IETF protocol assignments (RFC 2928), such as Teredo's, which carry an IPv4 address
            "2002::/16",  # 6to4 (RFC 3056), which carries one too
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)
"""Of IANA's registries of special-purpose addresses, what ``ipaddress`` takes for global in some supported Python."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""How an interface identifier of ISATAP begins (RFC 5214, section 6.1); an IPv4 address follows."""


class AddressRefusedError(Exception):
    """The address or the port may not be connected to, or there is none; the message says why, without the URL."""


def is_public(address: Address) -> bool:
    """Whether the address is one of the open Internet: not private, loopback, link-local, shared, reserved, multicast.

    An IPv6 address that carries an IPv4 address (mapped, 6to4, Teredo, ISATAP, NAT64) is none: the way to it ends at
    that IPv4 address, which may be in this network.
    """
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return True
    return address in _GLOBAL_UNICAST and int(address) >> 32 & 0xFFFFFFFF not in _ISATAP


class PinnedAdapter(BoundedAdapter):
    """Connects to addresses that ``policy`` allows, and to the very ones that it was asked about.

    Certificates are still checked for the name in the URL.

    Args:
        ports: the only ones that are connected to; any, if it is empty.
    """

    def __init__(self, on_socket: OnSocket, policy: AddressPolicy, ports: Collection[int] = ()) -> None:
        super().__init__(on_socket)
        self._policy = policy
        self._ports = ports

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        host: dict[str, Any]
        pool: dict[str, Any]
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)  # type: ignore[assignment]
        name = urlsplit(str(request.url)).hostname or ""
        port = host["port"] or {"http": 80, "https": 443}[host["scheme"]]
        if self._ports and port not in self._ports:
            known = ", ".join(map(str, sorted(self._ports)))
            raise AddressRefusedError(f"its port is {port}, and only {known} are allowed (url_ports)")
        host["host"] = str(resolve(name, port, self._policy))
        if host["scheme"] == "https":
            pool |= {"server_hostname": name, "assert_hostname": name}
        return host, pool

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers["Host"] = urlsplit(str(request.url)).netloc.rpartition("@")[2]


def resolve(name: str, port: int, policy: AddressPolicy) -> Address:
    """Return the address to connect to for ``name``, all of whose addresses ``policy`` must allow.

    Raises:
        AddressRefusedError: it allows one of them not, or there is none.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressRefusedError(f"its host cannot be resolved ({error})") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(map(policy, addresses)):
        raise AddressRefusedError("its host has an address that is not public, and only public addresses are allowed")
    return min(addresses, key=lambda address: address.version)  # many machines have no route for IPv6
