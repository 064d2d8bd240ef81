"""Which network addresses a download may connect to, where the URL comes from somebody who is not trusted.

A name is resolved once, every address that it has is checked, and the connection goes to the checked address itself: a
name that means another address a moment later changes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

Address = IPv4Address | IPv6Address
AddressPolicy = Callable[[Address], bool]
"""Says whether an address may be connected to."""


class AddressRefusedError(Exception):
    """The policy refuses the address, or there is none; the message says why, without the URL."""


def is_public(address: Address) -> bool:
    """Whether the address is one of the open Internet: not private, loopback, link-local, shared, reserved, multicast.

    An IPv6 address that carries an IPv4 address (mapped, 6to4, Teredo) is public only if that one is too; those of
    NAT64 count as reserved.
    """
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return all(map(is_public, _carried(address))) if isinstance(address, IPv6Address) else True


def _carried(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses inside an IPv6 address."""
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return [each for each in carried if each is not None]


class PinnedAdapter(HTTPAdapter):
    """Connects to addresses that ``policy`` allows, and to the very ones that it was asked about.

    For ``requests``; certificates are still checked for the name in the URL.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        super().__init__()
        self._policy = policy

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        host: dict[str, Any]
        pool: dict[str, Any]
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)  # type: ignore[assignment]
        name = urlsplit(str(request.url)).hostname or ""
        host["host"] = str(resolve(name, host["port"] or {"http": 80, "https": 443}[host["scheme"]], self._policy))
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
        raise AddressRefusedError(f"its host has no address ({error})") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(map(policy, addresses)):
        raise AddressRefusedError("its host has an address that is not public, and only public ones are connected to")
    return min(addresses, key=lambda address: address.version)  # many machines have no route for IPv6
