"""The client: a method for each call of the interface."""

from __future__ import annotations

from typing import Unpack

from manyhats_client import operations as ops
from manyhats_client._async.asking import AsyncAsking
from manyhats_client._async.managing import AsyncManaging
from manyhats_client.choices import CallOptions, only_options
from manyhats_client.errors import ServerNotReady
from manyhats_client.models import Health
from manyhats_client.retries import NOT_YET, ReadyWait


class AsyncClient(AsyncAsking, AsyncManaging):
    """Talks to a Manyhats server.

    Wherever a task is asked it may be written `task`, `task@alias` or `task@3`. Close the client when done, or use it
    as a context manager. The blocking client may be shared between threads; the other one packs folders, reads files
    and writes downloads in threads.

    Every call takes `timeout`, `retries` and `headers` of its own (see CallOptions), and those that ask take the
    parameters of the task's kind. `parameters` is for those that have no keyword, as of a kind from an extension.
    """

    async def health(self, **given: Unpack[CallOptions]) -> Health:
        """Says that the process lives."""
        return await self._call(ops.health(), only_options(given))

    async def ready(self, **given: Unpack[CallOptions]) -> bool:
        """Whether the server can answer now; false while it starts or drains."""
        try:
            await self._call(ops.ready(), only_options(given))
        except ServerNotReady:
            return False
        return True

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server is ready. Raises Timeout after `timeout` seconds."""
        wait = ReadyWait(timeout)
        while True:
            try:
                return await self._call(ops.ready(), {"timeout": wait.timeout_of_one})
            except NOT_YET as error:
                pause = wait.pause(error)
            await self._sleep(pause)
