"""What is said of an alias that is rolled out, and of a version that was evaluated, for /openapi.json."""

from __future__ import annotations

from manyhats.api.schemas import AnswerBody


class LatencyBody(AnswerBody):
    """Milliseconds in the model, of the last requests that both versions answered."""

    p50_ms: float
    p95_ms: float


class ShadowState(AnswerBody):
    """A shadow, and what became of the requests that it was to be asked. `skipped`: the server was busy. `agreed`,
    `differed`, `not_compared`: inputs; the last were sampled without a seed. `error`: of the last that failed. `main`,
    `shadow`: latencies, once there are any."""

    version: int
    fraction: float
    tolerance: float
    answered: int
    failed: int
    skipped: int
    agreed: int
    differed: int
    not_compared: int
    error: str | None
    main: LatencyBody | None
    shadow: LatencyBody | None


class SideState(AnswerBody):
    """Requests within the window. `faults`: those that failed by the server's fault."""

    requests: int
    faults: int
    error_rate: float | None
    p95_ms: float | None


class CanaryState(AnswerBody):
    """A canary, its bounds, and the requests of the last `window_seconds` that it and the other versions answered."""

    version: int
    max_error_rate: float | None
    max_latency_ratio: float | None
    max_p95_ms: float | None
    min_requests: int
    window_seconds: float
    canary: SideState
    others: SideState


class WithdrawnBody(AnswerBody):
    """A canary that was taken out of its split. `at`: unix seconds."""

    version: int
    reason: str
    at: float


class RolloutState(AnswerBody):
    """What an alias has besides its versions. `affinity`: the header whose value keeps a version. `since`: unix
    seconds, when counting began; null before the first request. `withdrawn`: the canary that passed a bound last."""

    affinity: str
    since: float | None
    shadow: ShadowState | None
    canary: CanaryState | None
    withdrawn: WithdrawnBody | None


class EvaluationBody(AnswerBody):
    """How good a version was on labelled examples beside the stable one. `value`, `baseline`: of `metric`, of either;
    null where there is none. `created`: unix seconds. `activated`: whether `alias` points at the version since;
    `reason`: why, or why not."""

    metric: str
    value: float | None
    baseline: float | None
    baseline_version: int | None
    examples: int
    max_drop: float
    alias: str
    activated: bool
    reason: str
    created: float
