"""Starts, blocks and reads engines in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.sequence import Request
from manyhats.engine.engine import Engine
from manyhats.engine.runner import Runner
from manyhats.methods.bound_adapter import BoundAdapter

from tests import tiny
from tests.waiting import PATIENCE

Make = Callable[..., Engine]


def adapters(backbone: Backbone, count: int = 4) -> list[BoundAdapter]:
    methods = ("lora", "prefix", "bottleneck", "mask")
    return [
        tiny.adapter(backbone, methods[i % 4], i, kind="classify", labels=i + 2).bind(backbone) for i in range(count)
    ]


def outputs(request: Request) -> list[Any]:
    """The answers, when they are there."""
    request.future.result(PATIENCE)
    return [sequence.pooled for sequence in request.sequences]


def close(given: Any, expected: list[torch.Tensor]) -> bool:
    return tiny.difference([torch.tensor(output) for output in given], expected) < tiny.CLOSE


class BlockingRunner:
    """A runner that waits before each batch."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.proceed = threading.Event()
        self.sequences: list[int] = []
        self.execute = Runner.execute

    def __call__(self, runner: Runner, batch: ScheduledBatch) -> list[SequenceOutput]:
        self.sequences.append(len(batch.sequences))
        self.entered.set()
        assert self.proceed.wait(PATIENCE)
        return self.execute(runner, batch)
