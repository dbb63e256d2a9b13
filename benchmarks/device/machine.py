"""Versions, the card, and the host's cost of a call to it."""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from manyhats.kernels.registry import choose, described

from device.child import Run, attempt, report
from device.timing import copied_bytes_ms, product_flops_ms, timed

_OTHERS = ("triton", "peft", "pytest", "pydantic", "fastapi")


def run() -> None:
    """All parts."""
    versions: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "numpy": np.__version__, "cpus": os.cpu_count(),
    }  # fmt: skip
    for name in _OTHERS:
        try:
            versions[name] = importlib.import_module(name).__version__
        except Exception as error:
            versions[name] = f"{type(error).__name__}: {error}"[:120]
    report("versions", versions)
    for part in (card, copy, product, host, bus, kernels):
        attempt(part.__name__, part)


def card() -> None:
    """Its name and driver."""
    card: dict[str, Any] = {"name": "none (CPU)"}
    if Run.device == "cuda":
        p = torch.cuda.get_device_properties(0)
        card = {"name": p.name, "capability": f"{p.major}.{p.minor}", "multiprocessors": p.multi_processor_count,
                "memory_gib": round(p.total_memory / 2**30, 1), "cuda": torch.version.cuda,
                "tf32_products": torch.backends.cuda.matmul.allow_tf32}  # fmt: skip
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        card["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    report("card", card)


def kernels() -> None:
    """What the server would compute with, and why not with the kernels for CUDA. Compiles them."""
    begin = time.time()
    device = torch.device(Run.device)
    report("kernels", described(device) | {"chosen": choose(device).name, "seconds": round(time.time() - begin, 1)})


def copy() -> None:
    """Bandwidth of a copy within the device, read and written."""
    report("copy_gb_s", round(copied_bytes_ms() / 1e6, 1))


def product() -> None:
    """A large matrix product in both precisions."""
    report("product_tflops", round(product_flops_ms() / 1e9, 1))
    n = 512 if Run.small else 8192
    x, y = (torch.randn(n, n, device=Run.device, dtype=torch.bfloat16) for _ in range(2))
    out = x @ y
    exact = x[:8].double() @ y.double()
    report("product_relative_error", float(f"{float((out[:8].double() - exact).norm() / exact.norm()):.2g}"))
    wide = x.float()
    ms = statistics.median(timed(lambda: wide @ wide)[0] for _ in range(3))
    report("product_fp32_tflops", round(2 * n**3 / ms / 1e9, 1))


@torch.inference_mode()
def host() -> None:
    """What the host pays, in microseconds: these decide where everything is bound by launches."""
    t, n = torch.zeros(64, device=Run.device), 2000
    w = torch.randn(2048, 8, device=Run.device, dtype=torch.bfloat16)
    x = torch.randn(2, 2048, device=Run.device, dtype=torch.bfloat16)
    index = torch.arange(64, device=Run.device)
    rows = torch.randn(64, 64, device=Run.device)

    def each(run: Callable[[], Any]) -> float:
        for _ in range(20):
            run()
        ms, _ = timed(lambda: [run() for _ in range(n)])
        return round(ms * 1e3 / n, 2)

    report("host_us", {
        "add": each(lambda: t.add_(1)), "small product": each(lambda: x @ w), "view": each(lambda: t[1:]),
        "index_select": each(lambda: rows.index_select(0, index)),
        "copy to the device, blocking": each(lambda: torch.tensor([1, 2, 3], device=Run.device)),
        "operator and .item()": each(lambda: t.add_(1).sum().item()),
    })  # fmt: skip


def bus() -> None:
    """From the host to the device."""
    size = 1 << (22 if Run.small else 28)
    target = torch.empty(size, dtype=torch.uint8, device=Run.device)
    sides = {"pageable": torch.ones(size, dtype=torch.uint8)}
    if Run.device == "cuda":
        sides["pinned"] = sides["pageable"].pin_memory()
    rates = {}
    for name, source in sides.items():
        ms = statistics.median(timed(lambda s=source: target.copy_(s, non_blocking=True))[0] for _ in range(5))
        rates[name] = round(size / ms / 1e6, 1)
    report("to_device_gb_s", rates)
