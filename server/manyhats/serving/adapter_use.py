"""The adapter of a running request: acquired before it is tokenised, and given back when it has ended."""

from __future__ import annotations

from concurrent.futures import Future

from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Version
from manyhats.serving.inference import RequestState


def acquired(cache: AdapterCache, one: RequestState) -> bool:
    """Requests the adapter, unless that was done. Returns whether it is there."""
    version = one.effective_version
    if version is None or one.acquired:
        return True
    load = one.load_future
    if load is None:
        resident = cache.acquire_resident(version)
        if resident is not None:
            one.adapter, one.acquired = resident, True
            return True
        load = one.load_future = cache.acquire(version)
    if load.done() and load.exception() is None:
        one.adapter, one.acquired = load.result(), True
    return one.acquired


def give_adapter_back(cache: AdapterCache, one: RequestState) -> None:
    """Gives the adapter back as soon as a request has ended: others of its call may wait for a slot, and with them
    those of other calls, which hold what this one waits for."""
    request, version = one.engine_request, one.effective_version
    if one.acquired and version is not None and (request is None or request.future.done()):
        one.acquired, one.load_future = False, None
        cache.release(version)


def leave_adapter(cache: AdapterCache, one: RequestState) -> None:
    """The request needs its adapter no more, whether or not it has come."""
    version = one.effective_version
    if one.acquired and version is not None:
        cache.release(version)
    elif one.load_future is not None and not one.load_future.cancel():
        # It was loaded after the request had given up.
        given = version or one.version
        one.load_future.add_done_callback(lambda load: _release_if_given(cache, given, load))


def _release_if_given(cache: AdapterCache, version: Version, load: Future[BoundAdapter]) -> None:
    if not load.cancelled() and load.exception() is None:
        cache.release(version)
