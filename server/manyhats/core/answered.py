"""What was asked of one task, and what became of it: for metrics, the log of requests and traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyhats.core.report import BatchReport


@dataclass(slots=True)
class Answered:
    """One item of a request, answered or refused. Times are by `time.monotonic()`, in seconds, but for those in `_ms`.

    `found`: whether the task is one that there is; `error`: the class of what went wrong, else empty. `submitted`,
    `started`: when it was given to the engine, and its first pass began; 0.0 where that never was. `batch`: of its last
    pass. `token_times`: of each generated text, when its tokens came. `texts`, `outputs`: only where they are logged.
    """

    task: str
    received: float
    seconds: float
    error: str = ""
    found: bool = True
    version: int = 0
    sha256: str = ""
    method: str = ""
    kind: str = ""
    inputs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    queue_ms: float = 0.0
    load_ms: float = 0.0
    compute_ms: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    batch: BatchReport | None = None
    token_times: Sequence[Sequence[float]] = ()
    texts: Sequence[Any] | None = None
    outputs: Sequence[Mapping[str, Any]] | None = None
