"""Settings that a running server takes over again, when it is told to by SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from manyhats.api.exposure import check_exposure
from manyhats.errors import ManyhatsError
from manyhats.settings import RELOADED, Settings

logger = logging.getLogger(__name__)


class Reloader:
    """Reads the settings again and gives those of `RELOADED` to whoever holds them.

    `read`: makes the settings anew, from where they came. What is wrong with them is logged, and nothing is changed.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self.settings = settings
        self._read = read
        self._holders: list[Callable[[Settings], object]] = []

    def give_to(self, holder: Callable[[Settings], object]) -> None:
        """Has `holder` called with the settings each time that they were read again."""
        self._holders.append(holder)

    def reload(self) -> None:
        """Reads them again."""
        try:
            new = self._read()
            check_exposure(new)
        except ManyhatsError as error:
            logger.error("the settings were not read again, those before hold: %s", error.message)
            return
        changed = [name for name in Settings.model_fields if getattr(new, name) != getattr(self.settings, name)]
        taken = sorted(RELOADED.intersection(changed))
        left = sorted(set(changed) - RELOADED)
        self.settings = self.settings.model_copy(update={name: getattr(new, name) for name in taken})
        for holder in self._holders:
            holder(self.settings)
        logger.info("settings read again; changed: %s", ", ".join(taken) or "none")
        if left:
            logger.warning("a change of these settings takes effect at the next start: %s", ", ".join(left))
