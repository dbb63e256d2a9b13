"""What a step of transformers' and PEFT's `generate` takes, with the same texts and tasks."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaForCausalLM

from device.child import Run, left, report
from device.engine_under_test import llama_config, made
from device.timing import timed


def beside_peft(texts: int, tasks: int) -> None:
    """Of Llama-1B: the difference between a longer and a shorter text."""
    import peft

    warnings.filterwarnings("ignore")
    model = made(LlamaForCausalLM, llama_config("1B"), torch.bfloat16)
    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    begin = time.time()
    wrapped = peft.get_peft_model(model, config, adapter_name="t0", autocast_adapter_dtype=False)
    for i in range(1, tasks):
        wrapped.add_adapter(f"t{i}", config, autocast_adapter_dtype=False)
    wrapped = wrapped.to(Run.device, torch.bfloat16).eval()
    report("PEFT: seconds to add the adapters", round(time.time() - begin, 1))
    pick = random.Random(0)
    lengths = [16 + (80 * i) // max(texts - 1, 1) for i in range(texts)]
    ids = torch.zeros(texts, max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, length in enumerate(lengths):
        ids[i, -length:], mask[i, -length:] = torch.tensor([5 + pick.randrange(90) for _ in range(length)]), 1
    given = {"input_ids": ids.to(Run.device), "attention_mask": mask.to(Run.device)}

    def generate(count: int, model: Any = wrapped, **more: Any) -> Callable[[], Any]:
        return lambda: model.generate(
            **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, **more
        )

    low, high = (2, 6) if Run.small else (4, 20)
    plain = made(LlamaForCausalLM, llama_config("1B"), torch.bfloat16)
    names = [f"t{i % tasks}" for i in range(texts)]
    sides: dict[str, dict[str, Any]] = {
        "transformers generate, bare": {"model": plain},
        f"PEFT generate, adapter_names, {tasks} lora": {"adapter_names": names},
    }
    for name, how in sides.items():
        if left() < 10:
            report(name, "left out: no time")
            continue
        generate(2, **how)()
        totals = [min(timed(generate(n, **how))[0] for _ in range(2)) for n in (low, high)]
        report(name, {"ms": round((totals[1] - totals[0]) / (high - low), 3), "texts": texts})
