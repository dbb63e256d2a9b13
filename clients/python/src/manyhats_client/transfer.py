"""Bytes on their way to the server, counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

Progress = Callable[[int, int | None], object]
"""Is told the bytes so far and, where it is known, how many there will be."""


class CountedBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request's body, which tells how much of it was taken. asyncio reads it in threads, as files may be slow."""

    def __init__(self, request: httpx.Request, progress: Progress) -> None:
        self._body: Any = request.stream
        self._progress = progress
        length = request.headers.get("Content-Length")
        self._total = None if length is None else int(length)

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        self._progress(sent, self._total)
        for chunk in self._body:
            yield chunk
            sent += len(chunk)
            self._progress(sent, self._total)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = iter(self)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk
