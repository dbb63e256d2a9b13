"""What the project holds itself to on an H100 or H200, by the name of the figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets import Target

KERNELS = "operations of the kernels that differ from float64"
METHODS = "methods that differ from the CPU's float32"
TEXTS = "texts that differ from the CPU's"
ENCODER_32 = "BERT-base, bfloat16: 32 LoRA tasks to bare"
ENCODER_256 = "BERT-base, bfloat16: 256 LoRA tasks to bare"
ENCODER_TWELVE = "BERT-base, bfloat16: twelve methods over 32 tasks to bare"
ENCODER_PEFT = "BERT-base, bfloat16: PEFT's mixed batch to ours, 32 LoRA tasks"
BARE_STEP = "Llama-8B, 32 streams: bare to the floor"
STEP_16 = "Llama-8B, 32 streams: 16 LoRA tasks to bare"
STEP_256 = "Llama-8B, 256 streams: 256 LoRA tasks to the floor"
STEP_MASKS = "Llama-8B, 32 streams: 16 masks to the floor"
SWAP = "from host memory to a slot, one LoRA of Llama-1B: p50, ms"
SWAPPED_STEP = "steps while adapters are swapped: p99 to p50"

TIME_LIMIT = "the time limit came here"  # the message of a case that was under way then

# The block that gives each figure.
TARGETS: dict[Target, str] = {
    Target(KERNELS, 0): "k",
    Target(METHODS, 0): "c",
    Target(TEXTS, 0): "c",
    Target(ENCODER_32, 1.25): "e",
    Target(ENCODER_256, 1.5): "e",
    Target(ENCODER_TWELVE, 1.5): "e",
    Target(ENCODER_PEFT, 20, at_least=True): "e",
    Target(BARE_STEP, 1.2): "f",
    Target(STEP_16, 1.08): "f",
    Target(STEP_256, 1.25): "f",
    Target(STEP_MASKS, 1.3): "f",
    Target(SWAP, 3): "g",
    Target(SWAPPED_STEP, 1.15): "g",
}


def verdicts(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By figure: its limit, its value, and what that means. A failure counts where nothing may differ; the time limit
    is none, and says only that not all was looked at."""
    trial = data["about"]["small"] or data["about"]["device"] != "cuda"
    found: dict[str, dict[str, Any]] = {}
    for target, block in TARGETS.items():
        entry = data["blocks"].get(block, {})
        value = entry.get("figures", {}).get(target.figure)
        if value is not None and target.limit == 0:
            value += sum(error.get("message") != TIME_LIMIT for error in entry["errors"])
        verdict = "not measured" if value is None else "met" if target.met(value) else "missed"
        if verdict == "met" and target.limit == 0 and entry.get("status") == "timeout":
            verdict = "met by what the time was enough for"
        if trial and value is not None and target.limit:
            verdict = "a trial, which says nothing"
        limit = f"at {'least' if target.at_least else 'most'} {target.limit:g}"
        found[target.figure] = {"target": limit, "figure": value, "verdict": verdict}
    return found
