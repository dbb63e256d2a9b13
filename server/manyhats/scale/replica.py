"""One replica: the same application as `manyhats serve`, asked by messages. Nothing here knows Ray."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from manyhats.api.app import create_app
from manyhats.errors import EngineFailure
from manyhats.observability import logs
from manyhats.registry.names import BASE
from manyhats.runtime import Runtime
from manyhats.scale.exchange import Asked, Begun, Exchange
from manyhats.scale.places import Place
from manyhats.scale.sharing import own_settings, shares
from manyhats.settings import Settings

logger = logging.getLogger(__name__)

NAME_HEADER = b"x-manyhats-replica"
_LOOK = 0.05  # seconds between looks whether it is ready


class Replica:
    """`Runtime` and application of one process, in a folder of its own below the store."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Loads the backbone and opens the store. Blocking. Raises what `Runtime` raises."""
        logs.configure(settings.log_level, settings.log_format)
        self.name = name
        self.place = Place(settings.store)
        try:
            if not shares(settings):
                self.place.link(settings.store)
            self.runtime = Runtime(own_settings(settings, self.place))
            self.runtime.open()
        except BaseException:
            self.place.give_back()
            raise
        self.app = create_app(self.runtime)
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._fatal = ""
        self.runtime.on_fatal = self._end
        self.under_way = 0  # requests
        self.asked, self.held = 0, 0  # requests that name a task, and those whose adapter was in a slot when they came

    async def start(self) -> None:
        """Starts the model's thread, and waits until requests can be answered. Raises EngineFailure where it cannot."""
        await self._lifespan.__aenter__()
        while not self.runtime.ready:
            self.check_health()
            await asyncio.sleep(_LOOK)

    async def stop(self) -> None:
        """Ends the runtime, and gives its folder back."""
        try:
            await self._lifespan.__aexit__(None, None, None)
        finally:
            self.place.give_back()

    async def ask(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
        """Answers one request. The answer says which replica gave it."""
        if asked.task is not None and asked.task != BASE:
            self.asked += 1
            self.held += self.holds(asked.task)
        answer = Exchange(self.app, asked).answer()
        self.under_way += 1
        try:
            async for piece in answer:
                if isinstance(piece, Begun):
                    piece.headers.append((NAME_HEADER, self.name.encode()))
                yield piece
        finally:
            self.under_way -= 1
            await answer.aclose()  # type: ignore[attr-defined]  # it is a generator

    def holds(self, task: str) -> bool:
        """Whether the adapter that a plain name means is in a slot."""
        found = self.runtime.registry.find(task)
        version = None if found is None else found.stable
        return version is not None and self.runtime.adapter_cache.level(version.sha256) == "slot"

    def held_tasks(self) -> list[str]:
        """The tasks whose adapter is in a slot."""
        resident = self.runtime.adapter_cache.resident()
        tasks = self.runtime.registry.all() if resident else []
        return [task.name for task in tasks if task.stable is not None and task.stable.sha256 in resident]

    def depth(self) -> int:
        """The inputs that wait for the model, and the requests that are in it."""
        begun, _ = self.runtime.engine.requests()
        return len(begun) + sum(self.runtime.engine.waiting().values())

    def figures(self) -> dict[str, Any]:
        """What it has done, for those who compare replicas."""
        return {
            "replica": self.name,
            "pid": os.getpid(),
            "place": self.place.number,
            "backbone": self.runtime.settings.backbone,
            "tasks": self.runtime.registry.count,
            "under_way": self.under_way,
            "asked": self.asked,
            "held": self.held,
        }

    def check_health(self) -> None:
        """Raises EngineFailure where the engine has given up: another replica takes its place."""
        if reason := self._fatal or self.runtime.fatal:
            raise EngineFailure(reason)

    def _end(self) -> None:
        self._fatal = self.runtime.fatal or "the engine has given up"
