"""Prints what passes cost, as the tables of `budgets` have it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests import tiny
from tests.launches.budgets import DECODE, ENCODER
from tests.launches.device import Count
from tests.launches.measured import OnDevice
from tests.launches.passes import ENCODER_SEQUENCES, STREAMS


def table(title: str, measure: Callable[..., Count], names: list[str], most: int) -> None:
    """A line for each method: beyond the pass without adapters, and for each further task."""
    bare = measure("bare").totals()
    print(f"{title}_LIMITS = Limits(kernels={bare['kernels']}, copies={bare['copies']}, waits={bare['waits']})")
    for name in names:
        one, many = measure(name, 1).totals(), measure(name, most).totals()
        parts = [str(one["kernels"] - bare["kernels"])]
        if many["kernels"] != one["kernels"]:
            parts.append(f"each={round((many['kernels'] - one['kernels']) / (most - 1), 2)}")
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
