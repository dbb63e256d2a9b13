"""What a pass may cost a GPU: launches, copies to the device, and times that the host waits for it.

`python -m tests.launches` prints what is measured. A change that makes these smaller makes the table smaller; one that
needs more says why.
"""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """Beyond what the same pass costs without adapters, whatever the number of tasks.

    `each`: kernels for each further task; `copies` and `waits`: beyond the limits of the whole pass below.
    """

    kernels: int
    each: float = 0
    copies: int = 0
    waits: int = 0


class Limits(NamedTuple):
    """Of a whole pass without adapters."""

    kernels: int
    copies: int
    waits: int


# 64 sequences in two blocks, mean-pooled: by method, and of several methods at once.
ENCODER_LIMITS = Limits(kernels=118, copies=11, waits=0)
ENCODER: dict[str, Budget] = {
    "lora": Budget(24, each=24),
    "mask": Budget(0, each=12),
    "ia3": Budget(60, each=48),
    "parameters": Budget(16, each=16),
    "sparse": Budget(7, each=8),
    "token_rows": Budget(7, each=7),
    "bottleneck": Budget(28, each=28),
    "average": Budget(56, each=56),
    "fusion": Budget(68, each=68),
    "prefix": Budget(4),
    "prompt": Budget(2, each=2),
    "invertible": Budget(10, each=10),
    "side": Budget(36, each=36, copies=384, waits=128),
    "stack": Budget(56, each=60),
    "lora+ia3": Budget(84, each=72),
    "biases": Budget(6, each=6),
    "norms": Budget(10, each=10),
    "head, of sequences": Budget(-34, each=27, copies=64),
    "head, of tokens": Budget(-38, each=27),
    "mixture": Budget(24, each=22, copies=6),
}

# A step of 32 streams in two blocks, a token each.
DECODE_LIMITS = Limits(kernels=109, copies=7, waits=3)
SAMPLED_LIMITS = Limits(kernels=562, copies=10, waits=99)
DECODE: dict[str, Budget] = {
    "lora": Budget(30, each=30),
    "mask": Budget(15, each=15),
    "ia3": Budget(70, each=56),
    "parameters": Budget(41, each=41),
    "sparse": Budget(8, each=8),
    "token_rows": Budget(7, each=7),
    "bottleneck": Budget(24, each=24),
    "average": Budget(52, each=52),
    "fusion": Budget(64, each=64),
    "prefix": Budget(0),
    "prompt": Budget(0),
    "invertible": Budget(10, each=10),
    "side": Budget(63, each=65, copies=193, waits=64),
    "stack": Budget(54, each=56),
    "lora+ia3": Budget(100, each=88),
    "biases": Budget(6, each=6),
    "norms": Budget(35, each=35),
    "mixture": Budget(30, each=26, copies=1),
}

# Python functions called at the sites for each further task, by method; none where a method is left out.
ENCODER_PYTHON: dict[str, float] = {
    "lora": 5.0,
    "parameters": 25.0,
    "sparse": 3.0,
    "token_rows": 3.0,
    "bottleneck": 64.0,
    "average": 108.0,
    "fusion": 108.0,
    "prefix": 6.0,
    "prompt": 5.0,
    "invertible": 12.0,
    "side": 530.0,
    "stack": 75.0,
    "lora+ia3": 5.0,
    "norms": 25.0,
    "head, of sequences": 5.0,
    "head, of tokens": 5.0,
    "mixture": 29.7,
}
DECODE_PYTHON: dict[str, float] = {
    "lora": 1.9,
    "parameters": 15.0,
    "sparse": 3.0,
    "token_rows": 3.0,
    "bottleneck": 44.0,
    "average": 88.0,
    "fusion": 88.0,
    "invertible": 12.0,
    "side": 357.0,
    "stack": 45.9,
    "lora+ia3": 1.9,
    "norms": 15.0,
    "mixture": 25.0,
}
