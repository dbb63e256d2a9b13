"""What an engine may run at once, and what may wait for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of what runs at once and of what may wait.

    `max_num_batched_tokens`: maximum tokens of one pass; `max_num_seqs`: maximum sequences that generate at once;
    `cache_bytes`: memory for their keys and values; `queue_per_task`, `queue_total`: maximum waiting sequences, of one
    task and of all. `threads`: torch's intra-op threads in the model's thread; 0: torch's default. `batch_wait`: how
    long a pass waits at most for clients that were just answered, in predicted passes. `enforce_eager`: see `Runner`.
    """

    max_num_batched_tokens: int
    max_num_seqs: int = 64
    cache_bytes: int = 1 << 30
    queue_per_task: int = 4096
    queue_total: int = 16384
    threads: int = 0
    batch_wait: float = 0.5
    enforce_eager: bool = False
