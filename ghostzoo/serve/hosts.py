"""Whom a request must be addressed to: a page whose name an attacker points at this machine must not get through.

gRPC needs no such check: browsers speak HTTP/2 within TLS only, and gRPC here has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from ..errors import OptionError

ANY = "*"

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@\[\]]+))(?::\d*)?")
_NAME = re.compile(r"[\w.-]+", re.ASCII)


def check_name(name: str) -> None:
    """Check what clients may address the server by.

    Raises:
        OptionError: it is neither a name nor ``*``.
    """
    if name != ANY and _NAME.fullmatch(name) is None:
        raise OptionError(
            f"An allowed host is a name such as ghostzoo.example.com, without scheme and port, or *, not {name!r}."
        )


def known_names(host: str, allowed: Iterable[str]) -> frozenset[str]:
    """Return the names that requests may be addressed to, in lower case, besides all addresses.

    Args:
        host: the name or address that the server listens on.
        allowed: further names, or ``*`` for any.
    """
    return frozenset(_plain(name) for name in ("localhost", host, *allowed))


def is_known(header: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header names this server: with an address, which no name service has had a hand in, or with
    one of ``names``, whatever the port."""
    if ANY in names:
        return True
    found = _HOST.fullmatch(header)
    return found is not None and (_plain(found[1] or found[2]) in names or _is_address(found[1] or found[2]))


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
