"""Sends requests, and tries again what may be tried again."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from manyhats_client.choices import CallOptions, Seconds
from manyhats_client.concurrency import AsyncSleep, async_sleep
from manyhats_client.connection import DEFAULT_TIMEOUT, settings, translated
from manyhats_client.errors import ManyhatsError, from_response
from manyhats_client.operations import Operation
from manyhats_client.retries import Retries

T = TypeVar("T")


class AsyncSender:
    """Connections to a server."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT,
        retries: int = 2,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: AsyncSleep = async_sleep,
    ) -> None:
        """`base_url`: left out, the environment variable MANYHATS_URL, or http://127.0.0.1:8000.

        `api_key`: left out, the environment variable MANYHATS_KEY; an empty one is none.
        `timeout`: seconds to connect, and to wait for the next chunk of an answer; None waits for ever.
        `retries`: how often a refusal (429, 503) or a connection that was never made is tried again.
        `headers`: further ones, of every request.
        `transport`: httpx's, for a Unix socket, a proxy or tests. `sleep`: waits between tries.
        """
        self._http = httpx.AsyncClient(**settings(base_url, api_key, timeout, headers), transport=transport)
        self._retries = Retries(retries)
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _call(self, operation: Operation[T], options: CallOptions) -> T:
        return operation.read(await self._send(operation, options))

    async def _send(self, operation: Operation[Any], options: CallOptions, *, stream: bool = False) -> httpx.Response:
        """The answer, if it is in order; with `stream` its body is still to be read."""
        retries = self._retries.with_most(options.get("retries"))
        tried = 0
        while True:
            tried += 1
            try:
                return await self._send_once(operation, options, stream)
            except ManyhatsError as failure:
                pause = retries.pause(failure, tried) if operation.retry else None
                if pause is None:
                    raise
            await self._sleep(pause)

    async def _send_once(self, operation: Operation[Any], options: CallOptions, stream: bool) -> httpx.Response:
        with translated():
            response = await self._http.send(operation.request(self._http, options), stream=stream)
            if response.is_success:
                return response
            await response.aread()
        raise from_response(response)
