"""Whether the server can do its work: its threads and its scan, looked after by a watchdog."""

from __future__ import annotations

from manyhats.engine.engine import Engine
from manyhats.engine.watchdog import Part, Watchdog
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.serving.dispatch import Dispatcher
from manyhats.serving.scanner import Scanner


def watch(
    watchdog: Watchdog, engine: Engine, adapter_cache: AdapterCache, dispatcher: Dispatcher, scanner: Scanner
) -> None:
    """Has the watchdog look after all parts of a server that must not stop."""
    detokenizer, loading = engine.detokenizer, adapter_cache.threads
    for part in (
        Part("the model's thread", lambda: engine.alive, lambda: engine.busy_since, engine.revive),
        Part("the detokenizer", lambda: detokenizer.alive, lambda: detokenizer.busy_since, detokenizer.revive),
        Part("the loading of adapters", lambda: loading.alive, lambda: loading.busy_since, loading.revive),
        Part(
            "the scan for adapters",
            lambda: scanner.alive,
            lambda: scanner.busy_since,
            scanner.revive,
            # A server that never learns of new adapters must not look well, though it answers for those that it has.
            lambda: scanner.failure,
        ),
        Part("the event loop", lambda: dispatcher.alive, lambda: dispatcher.busy_since, dispatcher.revive),
    ):
        watchdog.add(part)
