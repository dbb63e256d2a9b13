"""Keys: who may ask, and who may change tasks.

What routes depend on is asynchronous here, though nothing in it waits: a plain function would be run in a thread.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fastapi import Request
from fastapi.security import HTTPBearer

from manyhats.api.state import runtime_of
from manyhats.errors import AuthenticationRequired, PermissionDenied
from manyhats.settings import Keys


class RequiredKey(HTTPBearer):
    """A key that routes depend on: /openapi.json describes it, and `check` raises where it is missing or wrong."""

    def __init__(self, name: str, description: str, check: Callable[[Request], None]) -> None:
        super().__init__(scheme_name=name, description=description)
        self._check = check

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # no route reads the key
        self._check(request)


def is_reader(request: Request) -> bool:
    """Whether whoever sends this may ask: no keys are set, or the request has one of them."""
    settings = runtime_of(request).settings
    return not settings.api_keys or _has(request, (*settings.api_keys, *settings.admin_keys))


def _check_reader(request: Request) -> None:
    """Raises AuthenticationRequired where keys are set and the request has none of them."""
    if not is_reader(request):
        raise AuthenticationRequired("a key is needed: send it as 'Authorization: Bearer KEY'")


def _check_admin(request: Request) -> None:
    """Raises PermissionDenied where admin keys are set and the request has none of them."""
    _check_reader(request)
    settings = runtime_of(request).settings
    if settings.admin_keys and not _has(request, settings.admin_keys):
        if not _given(request):
            raise AuthenticationRequired("an admin key is needed: send it as 'Authorization: Bearer KEY'")
        raise PermissionDenied("this key may not change tasks; an admin key may")


require_read = RequiredKey(
    "Key", "One of the server's `api_keys` or `admin_keys`. Where it has no `api_keys`, none is needed.", _check_reader
)
require_admin = RequiredKey(
    "AdminKey",
    "One of the server's `admin_keys`. Where it has none, one of its `api_keys`; without any keys, none is needed.",
    _check_admin,
)


def _given(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _has(request: Request, keys: Keys) -> bool:
    given = _given(request).encode("latin-1")  # the bytes that came
    # Every key is compared in full, so that the time taken tells nothing.
    matches = [hmac.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    return any(matches)
