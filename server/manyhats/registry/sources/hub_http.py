"""HTTP as far as a hub needs it: bounded in time, in redirects and in where they lead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx

from manyhats.errors import NotFound, Overloaded, PermissionDenied, SourceFailed, TooLarge
from manyhats.registry.sources.base import Deadline

_MAX_REDIRECTS = 5
_SILENCE = 20.0  # seconds that a hub may take to connect, or to send a byte more
_AGENT = "manyhats"


class HubClient:
    """Asks the hub at `endpoint`. `token`: sent to that address alone. `hosts`: where else it may redirect to,
    `*.example.com` for every name below; over TLS only, unless the endpoint itself is without."""

    def __init__(self, endpoint: str, token: str | None, hosts: Sequence[str]) -> None:
        self._endpoint = httpx.URL(endpoint)
        self._token = token
        self._hosts = frozenset(hosts)
        self._ends = tuple(host[1:] for host in hosts if host.startswith("*."))

    def read(self, address: str, limit: int, deadline: Deadline) -> bytes:
        """A whole answer of at most `limit` bytes. Raises what `stream` raises, and TooLarge."""
        body = bytearray()
        with self.stream(address, deadline) as chunks:
            for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the hub's answer has more than {limit} bytes", param="source")
        return bytes(body)

    @contextmanager
    def stream(self, address: str, deadline: Deadline) -> Iterator[Iterator[bytes]]:
        """The bytes of an answer as they come, not unpacked.

        Raises NotFound, PermissionDenied, Overloaded where the hub says so, SourceFailed where it cannot be reached,
        says anything else or redirects where it may not, and DeadlineExceeded.
        """
        timeout = httpx.Timeout(_SILENCE, pool=None)
        try:
            with httpx.Client(follow_redirects=False, timeout=timeout) as client:
                url = httpx.URL(address)
                for _ in range(_MAX_REDIRECTS + 1):
                    deadline.check()
                    with client.stream("GET", url, headers=self._headers(url)) as response:
                        if response.has_redirect_location:
                            url = self._next(url, response.headers["location"])
                            continue
                        _check_status(response)
                        yield self._chunks(response, deadline)
                        return
            raise SourceFailed(f"the hub redirects more than {_MAX_REDIRECTS} times", param="source")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceFailed(f"the hub cannot be read: {error or type(error).__name__}", param="source") from None

    def _chunks(self, response: httpx.Response, deadline: Deadline) -> Iterator[bytes]:
        for chunk in response.iter_raw():  # as they come: a larger piece would wait for its last byte
            deadline.check()
            yield chunk

    def _headers(self, url: httpx.URL) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": _AGENT}
        if self._token and self._is_own(url):
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _is_own(self, url: httpx.URL) -> bool:
        own = self._endpoint
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    def _allows(self, host: str) -> bool:
        return host in self._hosts or "*" in self._hosts or host.endswith(self._ends)

    def _next(self, url: httpx.URL, location: str) -> httpx.URL:
        """Where a redirect leads. Raises SourceFailed for where it may not."""
        new = url.join(location)
        if self._is_own(new):
            return new
        if new.scheme != "https" and self._endpoint.scheme == "https":
            raise SourceFailed("the hub redirects to an address without TLS", param="source")
        if new.scheme not in ("http", "https") or not self._allows(new.host):
            raise SourceFailed(
                f"the hub redirects to '{new.host[:200]}', which is not among the hosts that may be read (hub_hosts)",
                param="source",
            )
        return new


def _check_status(response: httpx.Response) -> None:
    """Raises what an answer without a file means."""
    status = response.status_code
    if status == 200:
        return
    code = response.headers.get("x-error-code", "")
    if status == 404 and code == "RevisionNotFound":
        raise NotFound("the hub's repository has no such revision", param="source.revision")
    if status in (401, 404):  # a hub says 401 of what is not there, too
        raise NotFound("the hub has no such repository, or shows it to others alone", param="source.hub")
    if status == 403:
        raise PermissionDenied("the hub does not let this server read the repository", param="source.hub")
    if status == 429:
        after = response.headers.get("retry-after", "")
        raise Overloaded(
            "the hub has had too many requests of this server",
            retry_after=float(after) if after.isdigit() and len(after) < 5 else 60.0,
            param="source",
        )
    raise SourceFailed(f"the hub answers with status {status}", param="source")
