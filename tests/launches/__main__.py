"""Prints what passes cost, as the tables of `budgets` have it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import tiny
from tests.launches.budgets import DECODE, ENCODER
from tests.launches.device import Count
from tests.launches.measured import OnDevice
from tests.launches.passes import ENCODER_SEQUENCES, STREAMS, least_tasks


def table(title: str, measure: Callable[..., Count], names: list[str], most: int) -> None:
    """A line for each method: beyond the pass without adapters, and for each further task."""
    bare = measure("bare").totals()
    print(f"{title}_LIMITS = Limits(kernels={bare['kernels']}, copies={bare['copies']}, waits={bare['waits']})")
    for name in names:
        least = least_tasks(name)
        one, many = measure(name, least).totals(), measure(name, most).totals()
        each = (many["kernels"] - one["kernels"]) / (most - least)
        parts = [str(math.ceil(one["kernels"] - bare["kernels"] - each * (least - 1)))]
        if each:
            parts.append(f"each={math.ceil(each * 10) / 10}")
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
