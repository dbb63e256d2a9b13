"""What a pass may cost a GPU: launches, copies to the device, and times that the host waits for it.

`python -m tests.launches` prints what is measured. A change that makes these smaller makes the table smaller; one that
needs more says why.
"""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """Beyond what the same pass costs without adapters, whatever the number of tasks.

    `each`: kernels for each further task, where a method does not do all tasks in one call; `copies` and `waits`:
    beyond the limits of the whole pass below, of so many tasks as it has sequences.
    """

    kernels: int
    per_task: float = 0
    copies: int = 0
    waits: int = 0


class Limits(NamedTuple):
    """Of a whole pass without adapters. The kernels are those of transformers' model but for a dozen."""

    kernels: int
    copies: int
    waits: int


# 64 sequences in two blocks, mean-pooled, the answers read: by method, and of several methods at once.
ENCODER_LIMITS = Limits(kernels=54, copies=1, waits=1)
ENCODER: dict[str, Budget] = {
    "lora": Budget(8),
    "mask": Budget(0),
    "ia3": Budget(36),
    "parameters": Budget(23),
    "sparse": Budget(2),
    "token_rows": Budget(1),
    "bottleneck": Budget(16),
    "average": Budget(32),
    "fusion": Budget(48),
    "prefix": Budget(4),
    "prompt": Budget(3, per_task=2.0),
    "invertible": Budget(10, per_task=10.0),
    "side": Budget(45, copies=1),
    "stack": Budget(28),
    "lora+ia3": Budget(44),
    "biases": Budget(3),
    "norms": Budget(20),
    "head, of sequences": Budget(11),
    "head, of tokens": Budget(8),
    "mixture": Budget(106),
}

# A step of 32 streams in two blocks, a token each; greedy, and sampled with a temperature, top-k and top-p.
DECODE_LIMITS = Limits(kernels=92, copies=1, waits=1)
SAMPLED_LIMITS = Limits(kernels=127, copies=1, waits=1)
DECODE: dict[str, Budget] = {
    "lora": Budget(9),
    "mask": Budget(0),
    "ia3": Budget(42),
    "parameters": Budget(48),
    "sparse": Budget(2),
    "token_rows": Budget(1),
    "bottleneck": Budget(12),
    "average": Budget(32),
    "fusion": Budget(48),
    "prefix": Budget(0),
    "prompt": Budget(0),
    "invertible": Budget(10, per_task=10.0),
    "side": Budget(100, copies=1),
    "stack": Budget(21),
    "lora+ia3": Budget(51),
    "biases": Budget(3),
    "norms": Budget(45),
    "mixture": Budget(144),
}

# Python functions called at the sites for each further task, by method; none where a method is left out.
ENCODER_PYTHON: dict[str, float] = {
    "prompt": 6,
    "invertible": 14,
    "side": 700,
    "mixture": 1.5,
}
DECODE_PYTHON: dict[str, float] = {
    "invertible": 14,
    "side": 450,
}
