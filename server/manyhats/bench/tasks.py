"""The tasks of a store, loaded into slots, and texts to ask them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from manyhats.backbone import Text
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest, ManyhatsError, NotFound, WrongUsage
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.records import Version
from manyhats.runtime import Runtime

SENTENCES = Path(__file__).with_name("sentences.txt")
_COPYING = 30.0  # seconds that folders which are still being copied are waited for


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task of the store. `load_seconds`: from the request for its slot until it was there."""

    name: str
    kind: str
    version: Version
    adapter: BoundAdapter
    load_seconds: float

    @property
    def generates(self) -> bool:
        """Whether its answers are generated."""
        return KINDS[self.kind].generates

    @property
    def measured(self) -> bool:
        """Whether one pass over a text alone answers it."""
        kind = KINDS[self.kind]
        return not kind.generates and kind.pair is None and (kind.head is not None or not kind.lm_head)


def load_tasks(runtime: Runtime, names: Sequence[str] = ()) -> list[StoredTask]:
    """Imports what lies in the store, and loads its tasks, or those named, into slots, one after the other.

    Raises NotFound for a name that no task has, and InvalidRequest where the store has no task.
    """
    end = time.monotonic() + _COPYING
    while runtime.imports.scan()[1] and time.monotonic() < end:
        time.sleep(0.2)
    loaded: list[StoredTask] = []
    for task in sorted(runtime.registry.all(), key=lambda one: one.name):
        version = task.stable
        if version is None or (names and task.name not in names):
            continue
        if len(loaded) == runtime.settings.slots:
            break
        runtime.adapter_cache.unload(version.sha256)  # its import may have loaded it
        begin = time.perf_counter()
        try:
            adapter = runtime.adapter_cache.acquire(version).result()
        except ManyhatsError:
            if names:
                raise
            continue  # what cannot be loaded is a matter of the server's log
        seconds = time.perf_counter() - begin
        kind = task.settings_for(version).kind or version.info.kind
        loaded.append(StoredTask(task.name, kind, version, adapter, seconds))
    missing = sorted(set(names) - {one.name for one in loaded})
    if missing:
        raise NotFound(f"the store has no task {', '.join(f'`{name}`' for name in missing)}", param="tasks")
    if not loaded:
        raise InvalidRequest(f"the store {runtime.settings.store} has no adapter that fits the backbone")
    return loaded


def unload(runtime: Runtime, tasks: Sequence[StoredTask]) -> None:
    """Gives the tasks' slots back."""
    for task in tasks:
        runtime.adapter_cache.release(task.version)


def read_texts(file: Path | None) -> list[str]:
    """One text a line, of `file` or of sentences that come with the package. Raises WrongUsage for none."""
    source = SENTENCES if file is None else file
    lines: list[str] = []
    with suppress(OSError):
        lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise WrongUsage(f"there are no texts in {source}; give a file with one text a line", param="texts")
    return lines


def repeated(texts: Sequence[str], count: int) -> list[Text]:
    """So many texts, the given ones over and over."""
    return [Text(texts[i % len(texts)]) for i in range(count)]
