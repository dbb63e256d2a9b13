"""Settings that a running server takes over again, when it is told to by SIGHUP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from anyio import to_thread

from manyhats.api.exposure import check_exposure
from manyhats.errors import ManyhatsError
from manyhats.settings import RELOADED, Settings

logger = logging.getLogger(__name__)


class Reloader:
    """Reads the settings again and gives those of `RELOADED` to whoever holds them.

    `read`: makes the settings anew, from where they came. What is wrong with them is logged, and nothing is changed.
    Files are read, and the host's address is looked up, in a thread: a disk or a name server that does not answer
    holds up this reading and those that are asked for meanwhile, and no request.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self.settings = settings
        self._read = read
        self._holders: list[Callable[[Settings], object]] = []
        self._reading: list[Callable[[Settings], object]] = []
        self._asked = False  # again, since the reading that is under way began
        self._task: asyncio.Task[None] | None = None

    def give_to(self, holder: Callable[[Settings], object], *, in_thread: bool = False) -> None:
        """Has `holder` called with the settings each time that they were read again, on the event loop. `in_thread`: in
        a thread, before the others: it reads files."""
        (self._reading if in_thread else self._holders).append(holder)

    def ask(self) -> None:
        """Reads them again, soon, on the running event loop. One reading at a time: those asked for while one is under
        way are one more after it, so that what was written before the last of them holds in the end."""
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Waits for no reading any more."""
        self._asked = False
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            try:
                await self.reload()
            except Exception:  # the next one is another try
                logger.exception("the settings were not read again")

    async def reload(self) -> None:
        """Reads them again. Not while another one is under way: `ask` sees to that."""
        try:
            new = await to_thread.run_sync(self._read_checked, abandon_on_cancel=True)
        except ManyhatsError as error:
            logger.error("the settings were not read again, those before hold: %s", error.message)
            return
        changed = [name for name in Settings.model_fields if getattr(new, name) != getattr(self.settings, name)]
        taken = sorted(RELOADED.intersection(changed))
        left = sorted(set(changed) - RELOADED)
        self.settings = self.settings.model_copy(update={name: getattr(new, name) for name in taken})
        for holder in self._reading:
            await to_thread.run_sync(holder, self.settings, abandon_on_cancel=True)
        for holder in self._holders:
            holder(self.settings)
        logger.info("settings read again; changed: %s", ", ".join(taken) or "none")
        if left:
            logger.warning("a change of these settings takes effect at the next start: %s", ", ".join(left))

    def _read_checked(self) -> Settings:
        """In a thread. Raises ManyhatsError for settings that are wrong, or would open the server to others."""
        new = self._read()
        check_exposure(new)
        return new
