"""Prints what passes cost, as the tables of `budgets` have it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import tiny
from tests.launches.budgets import DECODE, ENCODER
from tests.launches.device_counts import Count
from tests.launches.measured import OnDevice
from tests.launches.passes import ENCODER_SEQUENCES, STREAMS, min_tasks_of


def table(title: str, measure: Callable[..., Count], names: list[str], many_tasks: int) -> None:
    """A line for each method: beyond the pass without adapters, and for each further task."""
    bare = measure("bare").totals()
    print(f"{title}_LIMITS = Limits(kernels={bare['kernels']}, copies={bare['copies']}, waits={bare['waits']})")
    for name in names:
        min_tasks = min_tasks_of(name)
        one, many = measure(name, min_tasks).totals(), measure(name, many_tasks).totals()
        per_task = (many["kernels"] - one["kernels"]) / (many_tasks - min_tasks)
        parts = [str(math.ceil(one["kernels"] - bare["kernels"] - per_task * (min_tasks - 1)))]
        if per_task:
            parts.append(f"per_task={math.ceil(per_task * 10) / 10}")
        for what in ("copies", "waits"):
            if many[what] != bare[what]:
                parts.append(f"{what}={many[what] - bare[what]}")
        print(f'    "{name}": Budget({", ".join(parts)}),', flush=True)


def main() -> None:
    """Both tables."""
    with tempfile.TemporaryDirectory() as root:
        encoder = OnDevice(tiny.write_base("bert", Path(root) / "bert"))
        table("ENCODER", encoder.encoder, [*ENCODER], ENCODER_SEQUENCES)
        decoder = OnDevice(tiny.write_base("llama", Path(root) / "llama"))
        table("DECODE", decoder.decode, [*DECODE], STREAMS)
        print(f"sampled: {decoder.decode('bare', sampled=True).totals()}")


if __name__ == "__main__":
    main()
