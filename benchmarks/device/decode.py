"""Steps of Llama-1B's shape with random weights: by method, greedy and sampled, beside transformers and PEFT."""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from manyhats.backbone import Backbone
from stepping import Generation
from transformers import LlamaForCausalLM

from device.child import Run, attempt, left, report
from device.engine_under_test import fits, generation, llama, llama_config, made, tasks_of, weight_bytes
from device.timing import counted, p99, summary_of, sync, timed

Case = tuple[list[Any], int, bool]  # adapters, texts, sampled


def cases_of(b: Backbone, texts: int, tasks: int) -> dict[str, Case]:
    """What is measured; masks only where the memory suffices."""
    loras, bare = tasks_of(b, "lora", tasks), tasks_of(b, "bare", 1)
    cases: dict[str, Case] = {
        "bare": (bare, texts, False),
        "1 lora": (loras[:1], texts, False),
        f"{tasks} lora": (loras, texts, False),
        "bare, sampled": (bare, texts, True),
        f"{tasks} lora, sampled": (loras, texts, True),
        "1 text, bare": (bare, 1, False),
        "1 text, 1 lora": (loras[:1], 1, False),
    }
    for method, masks in (("mixture", -(-tasks // 5)), ("mask", tasks)):
        if not fits(b, masks):
            report(f"{tasks} {method}", "left out: not enough memory")
            continue
        adapters = attempt(f"{tasks} {method}: bind", tasks_of, b, method, tasks)
        if adapters is not None:
            cases[f"{tasks} {method}"] = (adapters, texts, False)
    return cases


@torch.inference_mode()
def run() -> None:
    """All cases alternately, one step each."""
    new, texts, tasks, steps = (40, 8, 4, 8) if Run.small else (220, 32, 16, 40)
    begin = time.time()
    b = llama(torch.bfloat16)
    sync()
    weights = round(weight_bytes(b) / 1e9, 3)
    made_in = round(time.time() - begin, 1)
    report("backbone", {"seconds to make": made_in, "weights GB": weights, "layers": b.layers, "hidden": b.hidden})
    cases = cases_of(b, texts, tasks)
    attempt("warm up", warm, b, cases)
    under_way: dict[str, Generation] = {}
    for name, (adapters, count, sampled) in cases.items():
        started = attempt(f"{name}: prefill", start, name, b, adapters, count, new, sampled)
        if started is not None:
            under_way[name] = started
    times = in_turn(under_way, steps)
    for name, found in times.items():
        adapters, count, _ = cases[name]
        own = sum(a.nbytes for a in adapters) if "lora" in name else 0
        ordered = sorted(found)
        report(name, summary_of(found) | {
            "p99": round(p99(ordered), 3), "texts": count,
            "tokens_s": round(count / statistics.median(found) * 1e3, 1), "floor_bytes": weight_bytes(b) + own,
        })  # fmt: skip
    report("bytes of one lora", cases["1 lora"][0][0].nbytes)
    for name in times:
        if left() > 25:
            found_counts = attempt(f"{name}: counted", counted, under_way[name].step)
            if found_counts is not None:
                report(f"{name}: counted", found_counts)
    under_way.clear()
    if left() > 15:
        attempt("PEFT", beside_peft, texts, tasks)


def warm(b: Backbone, cases: dict[str, Case]) -> None:
    """A few texts to their end."""
    few = generation(b, next(a for name, (a, *_) in cases.items() if name.endswith(" lora"))[:3], 3, 4)
    while not few.idle:
        few.step()


def start(name: str, b: Backbone, adapters: list[Any], texts: int, new: int, sampled: bool) -> Generation:
    """Texts whose prompts have been read."""
    one = generation(b, adapters, texts, new, sampled=sampled)
    times = [round(timed(one.step)[0], 2) for _ in range(3)]
    assert one.running == texts, f"{one.running} of {texts} texts are under way"
    report(f"{name}: first steps", {"prefill_ms": times[0], "then": times[1:]})
    return one


def in_turn(under_way: dict[str, Generation], steps: int) -> dict[str, list[float]]:
    """Milliseconds of each step; without those that failed or came to their end."""
    times: dict[str, list[float]] = {name: [] for name in under_way}
    lost: set[str] = set()
    end = time.time() + min(25, max(left() - 35, 3))
    for step in range(steps):
        if step >= 5 and time.time() > end:
            break
        for name, one in under_way.items():
            if name in lost:
                continue
            spent = attempt(f"{name}: step", lambda one=one: timed(one.step)[0])
            if spent is None or one.idle:
                lost.add(name)
            else:
                times[name].append(spent)
    return {name: found for name, found in times.items() if found and name not in lost}


def beside_peft(texts: int, tasks: int) -> None:
    """What a step of `generate` takes: the difference between a longer and a shorter text."""
    import peft

    warnings.filterwarnings("ignore")
    model = made(LlamaForCausalLM, llama_config(), torch.bfloat16)
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
    plain = made(LlamaForCausalLM, llama_config(), torch.bfloat16)
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
