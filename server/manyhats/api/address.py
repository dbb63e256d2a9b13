"""Whether the address of the settings can be listened on, asked before anything that takes long is loaded."""

from __future__ import annotations

import errno
import socket
import sys

from manyhats.errors import ConfigurationError, WrongSetting
from manyhats.settings import Settings


def check_address(settings: Settings) -> None:
    """Raises ConfigurationError for a port in use or not allowed, and WrongSetting for another machine's address.

    The port is not kept: the server binds it when it has loaded, and says so itself where it was taken meanwhile.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise WrongSetting(f"setting 'host': '{host}' is no address: {error.strerror or error}") from None
    failed: list[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as one:
                _bind_as_server(one, address)
        except OSError as error:
            failed.append(error)
    if any(one.errno == errno.EADDRINUSE for one in failed):
        raise ConfigurationError(f"port {port} of {host} is in use; end what listens there, or give another --port")
    # A name may have addresses of a family that this machine has not; one address is enough.
    if failed and len(failed) == len(found):
        reason = failed[0].strerror or failed[0]
        if failed[0].errno == errno.EADDRNOTAVAIL:
            raise WrongSetting(f"setting 'host': '{host}' is no address of this machine: {reason}")
        raise ConfigurationError(f"port {port} of {host} cannot be listened on: {reason}")


def _bind_as_server(one: socket.socket, address: tuple[object, ...]) -> None:
    """Binds with the options that the event loop's servers have, so that a port just left by one is free."""
    if sys.platform != "win32":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind(address)
