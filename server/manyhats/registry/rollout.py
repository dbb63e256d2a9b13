"""How an alias is rolled out: who keeps a version, what runs beside it, and when a canary is withdrawn."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from manyhats.errors import InvalidRequest

AFFINITY = "x-affinity"  # the header whose value keeps a version, where the alias names no other
MAX_REQUESTS = 4096  # the most that `min_requests` may be: so many latencies of a version are kept
MAX_WINDOW = 86_400.0  # seconds
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SCALE = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked a `fraction` of the requests after their answers. `tolerance`: how far two numbers, or
    two vectors' cosine from 1, may differ and still agree."""

    version: int
    fraction: float
    tolerance: float = 0.05


@dataclass(frozen=True, slots=True)
class Canary:
    """When a version of a split is withdrawn: once `min_requests` of the last `window_seconds` are there, and a bound
    is passed. `max_error_rate`: of requests that failed by the server's fault. `max_latency_ratio`: its 95th percentile
    by that of the split's other versions; `max_p95_ms`: that percentile itself."""

    version: int
    max_error_rate: float | None = None
    max_latency_ratio: float | None = None
    max_p95_ms: float | None = None
    min_requests: int = 100
    window_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A canary that was taken out of its split. `at`: unix seconds."""

    version: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an alias has besides its versions. `affinity`: the header whose value keeps a version."""

    affinity: str | None = None
    shadow: Shadow | None = None
    canary: Canary | None = None
    withdrawn: Withdrawn | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to keep."""
        return self == _PLAIN

    @property
    def lasting(self) -> Rollout:
        """What stays when the alias is pointed elsewhere: a shadow, a canary and what became of it belong to the
        versions that it pointed at."""
        return Rollout(affinity=self.affinity)

    def check(self, versions: Sequence[int]) -> None:
        """Raises InvalidRequest where it does not fit an alias that points at these versions."""
        if self.affinity is not None and not _HEADER.fullmatch(self.affinity):
            raise InvalidRequest(
                f"affinity is the name of a header, such as X-Affinity, not '{self.affinity[:100]}'", param="affinity"
            )
        if self.shadow is not None:
            _check_shadow(self.shadow, versions)
        if self.canary is not None:
            _check_canary(self.canary, versions)

    def without_canary(self, reason: str, at: float) -> Rollout:
        """The rollout after its canary was withdrawn."""
        assert self.canary is not None
        return replace(self, canary=None, withdrawn=Withdrawn(self.canary.version, reason, at))

    def as_row(self) -> dict[str, Any]:
        """What is stored."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_PLAIN = Rollout()


def rollout_of(row: Mapping[str, Any]) -> Rollout:
    """What a stored row says. Raises TypeError for one that was never written here."""
    values = dict(row)
    for name, kind in (("shadow", Shadow), ("canary", Canary), ("withdrawn", Withdrawn)):
        if values.get(name) is not None:
            values[name] = kind(**values[name])
    return Rollout(**values)


def chosen(weights: Mapping[int, float], key: str, value: str) -> int:
    """The version that a caller's value keeps, of a split with these weights.

    `key`: of the split, so that a caller is not first in all splits. Each version draws a number of its own from key,
    value and its own number, and the smallest by its weight wins (weighted rendezvous hashing): the shares are those of
    the weights, and when these change, a value moves only to a version whose share has grown against its own.
    """

    def draw(version: int) -> float:
        digest = hashlib.blake2b(f"{key}\0{version}\0{value}".encode(errors="surrogatepass"), digest_size=8).digest()
        uniform = (int.from_bytes(digest) + 0.5) / _SCALE
        return -math.log(uniform) / weights[version]

    return min(sorted(weights), key=draw)


def _check_shadow(shadow: Shadow, versions: Sequence[int]) -> None:
    if not 0 < shadow.fraction <= 1:
        raise InvalidRequest(f"the shadow's fraction is above 0 and at most 1, not {shadow.fraction:g}", param="shadow")
    if not 0 <= shadow.tolerance < math.inf:
        raise InvalidRequest(f"the shadow's tolerance is 0 or more, not {shadow.tolerance:g}", param="shadow")
    if shadow.version in versions:
        raise InvalidRequest(
            f"version {shadow.version} is one that the alias points at; a shadow is another version", param="shadow"
        )


def _check_canary(canary: Canary, versions: Sequence[int]) -> None:
    if canary.version not in versions or len(versions) < 2:
        raise InvalidRequest(
            f"a canary is one of several versions of the split, which has {', '.join(map(str, versions))}; "
            f"version {canary.version} is not",
            param="canary",
        )
    bounds = {
        "max_error_rate": canary.max_error_rate,
        "max_latency_ratio": canary.max_latency_ratio,
        "max_p95_ms": canary.max_p95_ms,
    }
    if all(bound is None for bound in bounds.values()):
        raise InvalidRequest(f"a canary needs a bound: {', '.join(bounds)}", param="canary")
    if canary.max_error_rate is not None and not 0 <= canary.max_error_rate < 1:
        raise InvalidRequest(f"max_error_rate is 0 or more and below 1, not {canary.max_error_rate:g}", param="canary")
    for name in ("max_latency_ratio", "max_p95_ms"):
        bound = bounds[name]
        if bound is not None and not 0 < bound < math.inf:
            raise InvalidRequest(f"{name} is a positive number, not {bound:g}", param="canary")
    if not 1 <= canary.min_requests <= MAX_REQUESTS:
        raise InvalidRequest(f"min_requests is 1 to {MAX_REQUESTS}, not {canary.min_requests}", param="canary")
    if not 0 < canary.window_seconds <= MAX_WINDOW:
        raise InvalidRequest(
            f"window_seconds is above 0 and at most {MAX_WINDOW:g}, not {canary.window_seconds:g}", param="canary"
        )
