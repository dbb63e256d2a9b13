"""Keys: who may ask, and who may change tasks.

What routes depend on is asynchronous here, though nothing in it waits: a plain function would be run in a thread.
"""

from __future__ import annotations

import hmac

from fastapi import Request

from manyhats.api.state import runtime_of
from manyhats.errors import AuthenticationRequired, PermissionDenied
from manyhats.settings import Keys


def is_reader(request: Request) -> bool:
    """Whether whoever sends this may ask: no keys are set, or the request has one of them."""
    settings = runtime_of(request).settings
    return not settings.api_keys or _has(request, (*settings.api_keys, *settings.admin_keys))


async def require_read(request: Request) -> None:
    """Raises AuthenticationRequired where keys are set and the request has none of them."""
    if not is_reader(request):
        raise AuthenticationRequired("a key is needed: send it as 'Authorization: Bearer KEY'")


async def require_admin(request: Request) -> None:
    """Raises PermissionDenied where admin keys are set and the request has none of them."""
    await require_read(request)
    settings = runtime_of(request).settings
    if settings.admin_keys and not _has(request, settings.admin_keys):
        if not _given(request):
            raise AuthenticationRequired("an admin key is needed: send it as 'Authorization: Bearer KEY'")
        raise PermissionDenied("this key may not change tasks; an admin key may")


def _given(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _has(request: Request, keys: Keys) -> bool:
    given = _given(request).encode("latin-1")  # the bytes that came
    # Every key is compared in full, so that the time taken tells nothing.
    matches = [hmac.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    return any(matches)
