"""Who can reach the server, by its settings: the address it listens on, its keys, and the host names it answers to."""

from __future__ import annotations

import ipaddress
import logging
import socket

from manyhats.access.control import asks_for_keys
from manyhats.errors import WrongSetting
from manyhats.settings import Settings

logger = logging.getLogger(__name__)

# Names of a loopback address. A page elsewhere cannot make a browser send one of them to itself.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_EVERY_ADDRESS = "0.0.0.0"  # nosec B104  # compared with, to refuse it without keys
_ANY = frozenset({"", _EVERY_ADDRESS, "::"})


def check_exposure(settings: Settings) -> None:
    """Raises WrongSetting where other machines could reach a server without keys that nobody has asked for.

    What is open to whom is logged, where anybody may do something.
    """
    asks = asks_for_keys(settings)
    keyless = not asks and not settings.admin_keys
    if is_loopback(settings.host):
        return
    if keyless and not settings.allow_unauthenticated:
        raise WrongSetting(
            f"host is '{settings.host}', which other machines can reach, and there are no keys: make some with "
            "`manyhats keys create`, or set api_keys (and admin_keys for changes), or allow_unauthenticated where "
            "everybody who reaches the port may do everything"
        )
    if keyless:
        logger.warning(
            "allow_unauthenticated: WHOEVER REACHES %s MAY ASK, UPLOAD AND DELETE; there are no keys", settings.host
        )
    elif not asks:
        logger.warning("whoever reaches %s may ask: there are admin keys alone", settings.host)
    if not asks and allowed_hosts(settings) is None:
        logger.warning("requests to any host name are answered; allowed_hosts says which should be")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`, an address or a name."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def allowed_hosts(settings: Settings, *, asks: bool | None = None) -> tuple[str, ...] | None:
    """The host names that requests may be sent to, in lower case; None: any. `asks`: whether nobody may do anything
    without a key, for who knows it; else the keys file is looked for.

    Where asking needs a key, any will do: a page that has its own name point here (DNS rebinding) has no key. Without
    keys only names that such a page cannot have are answered: the loopback ones, and the address that is listened on.
    """
    given = tuple(name.lower() for name in settings.allowed_hosts)
    if "*" in given:
        return None
    if not given:
        if (asks_for_keys(settings) if asks is None else asks) or _listens_everywhere(settings.host):
            return None
        given = (_bracketed(settings.host.lower()),)
    return tuple(dict.fromkeys((*LOOPBACK, *given)))


def _listens_everywhere(host: str) -> bool:
    try:
        return host in _ANY or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
