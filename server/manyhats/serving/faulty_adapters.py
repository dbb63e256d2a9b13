"""Adapters that fail again and again: they are not asked any more, so that they cost the others nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from manyhats.backbone.device_memory import is_out_of_memory
from manyhats.errors import AdapterFailure, AdapterQuarantined, EngineFailure, ManyhatsError
from manyhats.registry.records import Version
from manyhats.registry.registry import Registry

logger = logging.getLogger(__name__)

_MAX_WATCHED = 4096  # adapters that have failed lately; merged ones are made by callers
_MAX_QUARANTINED = 65536


@dataclass(slots=True)
class _Faults:
    """The last faults of one adapter, and the error of the last: one error may fail all who waited for the same."""

    times: deque[float] = field(default_factory=deque)
    last: BaseException | None = None


class FaultyAdapters:
    """Counts adapters' own faults by their files, and quarantines those with `max_faults` within `window` seconds;
    0: none. Safe from any thread. `clock`: in seconds.

    Nothing is stored: after a start each adapter may fail again as often.
    """

    def __init__(self, max_faults: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_faults = max_faults
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: OrderedDict[str, _Faults] = OrderedDict()  # by sha256
        self.reasons: OrderedDict[str, str] = OrderedDict()  # of those that are quarantined, by sha256
        self.faults = 0  # so far
        self.quarantines = 0

    def check(self, versions: Iterable[Version]) -> None:
        """Raises AdapterQuarantined for the first of the versions that is quarantined."""
        for version in versions:
            if (reason := self.of(version)) is not None:
                raise AdapterQuarantined(
                    f"the adapter {version.ref} is quarantined: {reason}; another version is answered as ever, and "
                    f"`manyhats lift {version.task}` has this one asked again",
                    param="task",
                )

    def of(self, version: Version) -> str | None:
        """Why a version is quarantined; None where it is not."""
        return self.reasons.get(version.sha256)

    def add(self, version: Version, error: Exception) -> None:
        """A request for a version has failed: counts the fault where it is the adapter's own."""
        if not isinstance(error, AdapterFailure):
            return
        sha, cause = version.sha256, error.__cause__ or error
        with self._lock:
            own = self._faults.setdefault(sha, _Faults())
            self._faults.move_to_end(sha)
            if len(self._faults) > _MAX_WATCHED:
                self._faults.popitem(last=False)
            if own.last is cause:
                return
            now = self._clock()
            own.last = cause
            own.times.append(now)
            while now - own.times[0] > self._window:
                own.times.popleft()
            self.faults += 1
            count = len(own.times)
            if not self._max_faults or count < self._max_faults or sha in self.reasons:
                return
            self.reasons[sha] = f"it failed {count} times within {self._window:g} s, the last time: {error.message}"
            self.quarantines += 1
            del self._faults[sha]
            if len(self.reasons) > _MAX_QUARANTINED:
                self.reasons.popitem(last=False)
        logger.error("the adapter %s (%s) is quarantined: %s", version.ref, sha, self.reasons.get(sha))

    def lift(self, versions: Iterable[Version]) -> list[Version]:
        """Has versions asked again, and forgets their faults. Returns those that were quarantined."""
        lifted = []
        with self._lock:
            for version in versions:
                self._faults.pop(version.sha256, None)
                if self.reasons.pop(version.sha256, None) is not None:
                    lifted.append(version)
        for version in lifted:
            logger.warning("the adapter %s is asked again", version.ref)
        return lifted


def quarantined_versions(registry: Registry, faulty: FaultyAdapters) -> list[Version]:
    """All versions that are not asked, as their files are damaged or their adapter failed too often; by name."""
    found = {version.ref: version for version in registry.quarantine.versions()}
    for sha in list(faulty.reasons):
        found |= {version.ref: version for version in registry.needing(sha) if version.sha256 == sha}
    return [found[ref] for ref in sorted(found)]


def as_answer(error: Exception) -> ManyhatsError:
    """The error for the caller; internal errors are only logged."""
    if isinstance(error, ManyhatsError):
        return error
    logger.error("a request failed", exc_info=error)
    return EngineFailure("the server failed on this request; its log says why")


def loading_failure(version: Version, error: Exception) -> Exception:
    """What a request is told whose adapter cannot be loaded: an error that is no one else's is the adapter's own."""
    if isinstance(error, (ManyhatsError, OSError)) or is_out_of_memory(error):
        return error
    failure = AdapterFailure(f"the adapter {version.ref} cannot be loaded: {type(error).__name__}")
    failure.__cause__ = error
    return failure


def rendering_failure(version: Version, error: Exception) -> Exception:
    """The same of an answer that cannot be made of what the pass gave."""
    if isinstance(error, ManyhatsError) or is_out_of_memory(error):
        return error
    logger.error("the outputs of %s cannot be rendered", version.ref, exc_info=error)
    failure = AdapterFailure(f"the outputs of {version.ref} cannot be rendered: {type(error).__name__}")
    failure.__cause__ = error
    return failure
