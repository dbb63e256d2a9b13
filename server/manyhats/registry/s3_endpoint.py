"""Where S3 is, as the environment says it: the same for the store's own bucket and for those that are sources."""

from __future__ import annotations

import os

_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # the first that is set


def endpoint() -> str | None:
    """The address; None: the library's own choice, which is Amazon's."""
    return next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)


def allows_http(address: str | None) -> bool:
    """Whether the operator chose an address without TLS."""
    return address is not None and address.startswith("http:")
