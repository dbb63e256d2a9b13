"""Who a client is, where no key says it: its address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

_NETWORK = 64  # bits of an IPv6 address that are one client's: it may have all others


def client_of(address: Any) -> str:
    """The client at an address (host, port) as ASGI and sockets give it; empty where there is none."""
    host = address[0] if address else ""
    return host if ":" not in host else _network(host)


@lru_cache(maxsize=4096)
def _network(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:  # what a proxy has written there
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _NETWORK), strict=False))
