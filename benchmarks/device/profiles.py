"""Where the time of passes and steps goes, from torch.profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import BertModel

from device.child import Run, attempt, report
from device.engine_under_test import (
    backbone_of,
    bert_config,
    encoder_pass,
    generation,
    llama,
    made,
    rows_of,
    sentences,
    tasks_of,
)
from device.timing import sync

MOST = 25  # lines of a table


@torch.inference_mode()
def run() -> None:
    """Passes and steps."""
    (Run.out / "profile.txt").write_text("", encoding="utf-8")
    attempt("encoder", encoder)
    attempt("decode", decode)


def encoder() -> None:
    """32 tasks."""
    b = backbone_of(made(BertModel, bert_config(), torch.bfloat16), "bert", torch.bfloat16)
    ids = sentences(64, bert_config().vocab_size)
    for method, name in (("mixture", "32 tasks of five methods"), ("lora", "32 lora tasks")):
        rows = rows_of(tasks_of(b, method, 8 if Run.small else 32), ids)
        table(f"encoder pass, {name}", encoder_pass(b, rows))


def decode() -> None:
    """32 texts of 16 tasks."""
    b = llama(torch.bfloat16, "1B")
    for sampled in (False, True):
        one = generation(b, tasks_of(b, "lora", 4 if Run.small else 16), 8 if Run.small else 32, 60, sampled=sampled)
        for _ in range(4):
            one.step()
        table("decode step, 32 texts, 16 lora" + (", sampled" if sampled else ""), one.step)


def table(name: str, run: Callable[[], Any]) -> None:
    """The operators that take longest, on the device and on the host."""
    run()
    run()
    sync()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if Run.device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        run()
        sync()
    averages = profiled.key_averages()

    def device_us(event: Any) -> float:
        return float(getattr(event, "self_device_time_total", 0) or 0)

    def rows(by: Callable[[Any], float], on_device: bool) -> list[list[Any]]:
        cuda = torch.autograd.DeviceType.CUDA
        there = [e for e in averages if (getattr(e, "device_type", None) == cuda) == on_device and by(e) > 0]
        chosen = sorted(there, key=by, reverse=True)[:MOST]
        return [[e.key[:90], e.count, round(device_us(e)), round(e.self_cpu_time_total)] for e in chosen]

    kernels = rows(device_us, True)
    host = rows(lambda e: e.self_cpu_time_total, False)
    columns = ["name", "calls", "device us", "host us"]
    report(name, {"columns": columns, "by device time": kernels, "by host time": host[:15]})
    with (Run.out / "profile.txt").open("a", encoding="utf-8") as file:
        for title, found in (("device", kernels), ("host", host)):
            file.write(f"== {name}: by {title} time ({', '.join(columns)})\n")
            file.writelines(f"{row[0]:92s} {row[1]:7d} {row[2]:9d} {row[3]:9d}\n" for row in found)
