"""Passes of BERT-base's shape with random weights: by method, beside transformers and PEFT, and beside the CPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.methods.slots import slot_tables
from torch import Tensor
from transformers import BertModel

from device.child import Run, attempt, figure, left, report
from device.engine_under_test import (
    BARE,
    backbone_of,
    bert_config,
    bind,
    cpus,
    encoder_pass,
    fits,
    flops,
    made,
    part_of,
    rows_of,
    sentences,
    tasks_of,
    weight_bytes,
)
from device.targets import ENCODER_32, ENCODER_256, ENCODER_PEFT, ENCODER_TWELVE
from device.timing import counted, floor, in_turn

FEW = ("lora", "bottleneck", "ia3", "prefix")  # are compared with the CPU
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


class Passes:
    """The sentences, and a backbone for each precision, all with the same weights."""

    def __init__(self) -> None:
        self.many, self.largest = (8, 16) if Run.small else (32, 256)
        config = bert_config()
        self.ids = sentences(16 if Run.small else 64, config.vocab_size)
        self.long = sentences(max(self.largest, len(self.ids)), config.vocab_size)
        torch.manual_seed(0)
        self.weights = made(BertModel, config, torch.float32).state_dict()
        self.kept: dict[str, Backbone] = {}
        report("shape", {
            "layers": config.num_hidden_layers, "hidden": config.hidden_size, "sentences": len(self.ids),
            "tokens": sum(map(len, self.ids)), "tokens of the many": sum(map(len, self.long)),
        })  # fmt: skip

    def backbone(self, dtype: torch.dtype, device: str | None = None, kernels: str | None = None) -> Backbone:
        """One more of the same."""
        model = made(BertModel, bert_config(), dtype, device)
        model.load_state_dict(self.weights)
        return backbone_of(model, "bert", dtype, device=device, kernels=kernels)

    def padded(self) -> dict[str, Tensor]:
        """The sentences as transformers takes them."""
        longest = max(map(len, self.ids))
        wide = torch.zeros(len(self.ids), longest, dtype=torch.long)
        mask = torch.zeros_like(wide)
        for i, one in enumerate(self.ids):
            wide[i, : len(one)], mask[i, : len(one)] = torch.tensor(one), 1
        return {"input_ids": wide.to(Run.device), "attention_mask": mask.to(Run.device)}

    def speed(
        self, dtype: torch.dtype, kind: str, rounds: int, seconds: float, methods: Sequence[tuple[str, int]]
    ) -> None:
        """All methods alternately, and in bf16 their work on the device."""
        b = self.backbone(dtype)
        report(f"{kind}/kernels", slot_tables(b).kernels.name)
        sides: dict[str, Callable[[], Any]] = {}
        floors: dict[str, float] = {}
        for method, count in methods:
            if left() < 12:
                report(f"{kind}/{count} {method} tasks", "left out: no time")
                continue
            if method == "mask" and not fits(b, count):
                report(f"{kind}/{count} mask tasks", "left out: not enough memory")
                continue
            adapters = attempt(f"{kind}/{count} {method}: bind", tasks_of, b, method, count)
            if adapters is None:
                continue
            batch = self.long if count > len(self.ids) or (method, count) == ("bare", self.largest) else self.ids
            name = f"bare, {len(batch)} sentences" if method == "bare" else f"{count} {method} tasks"
            sides[name] = encoder_pass(b, rows_of(adapters, batch))
            size = weight_bytes(b) + sum(adapter.nbytes for adapter in adapters)
            pairs = adapters if method == "lora" else ()
            floors[name] = floor(dtype)(size, flops(b, sum(map(len, batch)), pairs))
        if kind == "bf16" and slot_tables(b).kernels.name != "reference":
            plainly = self.backbone(dtype, kernels="reference")
            adapters = tasks_of(plainly, "lora", self.many)
            sides[f"{self.many} lora tasks, reference"] = encoder_pass(plainly, rows_of(adapters, self.ids))
        plain = made(BertModel, bert_config(), dtype)  # a config of its own: ours says which attention is used
        inputs = self.padded()
        sides["transformers padded, bare"] = lambda: mean_pooled(plain, inputs)
        self.kept[kind] = b
        medians = in_turn(kind, sides, rounds, seconds, floors)
        if kind == "bf16":
            self._figures(medians)
        bare = medians.get(f"bare, {len(self.ids)} sentences")
        if bare:
            report(f"{kind}/to the bare pass", {n: round(ms / bare, 2) for n, ms in medians.items()})
        for name in medians if kind == "bf16" else ():
            if not name.startswith("transformers") and left() > 12:
                found = attempt(f"{kind}/{name}: counted", counted, sides[name])
                if found is not None:
                    report(f"{kind}/{name}: counted", found)

    def _figures(self, medians: Mapping[str, float]) -> None:
        """Those with a target, as far as both sides were measured."""
        few, all_of_them = (f"bare, {len(batch)} sentences" for batch in (self.ids, self.long))
        for name, side, bare in (
            (ENCODER_32, f"{self.many} lora tasks", few),
            (ENCODER_256, f"{self.largest} lora tasks", all_of_them),
            (ENCODER_TWELVE, f"{self.many} twelve tasks", few),
        ):
            if side in medians and bare in medians:
                figure(name, round(medians[side] / medians[bare], 3))

    def against_the_cpu(self) -> None:
        """BERT-base itself, with four methods: alone, mixed and the CPU."""
        cpu = self.backbone(torch.float32, "cpu")
        torch.set_num_threads(max(1, cpus() // 2))
        own = [part_of(cpu, name, i) for i, name in enumerate(FEW)]
        found: dict[str, list[Tensor]] = {}
        for kind, b in {"cpu": cpu, **self.kept}.items():
            bound = [bind(b, part) for part in own]
            rows = rows_of(bound, self.ids[:8], "none")
            found[kind] = [t.float().cpu() for t in encoder_pass(b, rows)()]
            found[kind + " alone"] = [t.float().cpu() for row in rows for t in encoder_pass(b, [row])()]
        differences = {}
        other = torch.cat([a.flatten() for a in found.pop("cpu")])
        for kind, answers in found.items():
            one = torch.cat([a.flatten() for a in answers])
            differences[kind] = {"largest": float(f"{float((one - other).abs().max()):.2g}"),
                          "relative": float(f"{float((one - other).norm() / other.norm()):.2g}")}  # fmt: skip
        report("four methods to the CPU's fp32 mixed batch", differences)

    def beside_peft(self) -> None:
        """PEFT's `adapter_names` with as many LoRAs."""
        import peft

        warnings.filterwarnings("ignore")
        model = made(BertModel, bert_config(), torch.bfloat16)
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False)
        begin = time.time()
        wrapped = peft.get_peft_model(model, config, adapter_name="t0", autocast_adapter_dtype=False)
        for i in range(1, self.many):
            wrapped.add_adapter(f"t{i}", config, autocast_adapter_dtype=False)
        wrapped = wrapped.to(Run.device, torch.bfloat16).eval()
        report("PEFT: seconds to add the adapters", round(time.time() - begin, 1))
        inputs = self.padded()
        names = [f"t{i % self.many}" for i in range(len(self.ids))]
        b = self.kept.get("bf16") or self.backbone(torch.bfloat16)
        sides: dict[str, Callable[[], Any]] = {
            "PEFT adapter_names": lambda: mean_pooled(wrapped, inputs, adapter_names=names),
            "ours": encoder_pass(b, rows_of(tasks_of(b, "lora", self.many), self.ids)),
            "bare": encoder_pass(b, rows_of([BARE], self.ids)),
        }
        medians = in_turn(f"beside PEFT, {self.many} LoRA tasks, bf16", sides, 8, 8)
        if {"ours", "PEFT adapter_names"} <= set(medians):
            figure(ENCODER_PEFT, round(medians["PEFT adapter_names"] / medians["ours"], 2))


def mean_pooled(model: Any, inputs: dict[str, Tensor], **more: Any) -> Tensor:
    """What a padded model gives for each sentence."""
    states = model(**inputs, **more).last_hidden_state
    mask = inputs["attention_mask"][:, :, None].to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def run() -> None:
    """All of it."""
    passes = Passes()
    many, largest = passes.many, passes.largest
    plan = [("bare", 1), ("lora", many), ("bare", largest), ("lora", largest), ("twelve", many), ("lora", 1),
            ("bottleneck", many), ("mask", many), ("prefix", many), ("ia3", many), ("mixture", many)]  # fmt: skip
    attempt("bf16", passes.speed, torch.bfloat16, "bf16", 25, 3 if Run.small else 14, plan)
    if left() > 15:
        attempt("PEFT", passes.beside_peft)
    few = [("bare", 1), ("lora", many), ("bottleneck", many), ("mask", many)]
    if left() > 10:
        attempt("fp32", passes.speed, torch.float32, "fp32", 10, 2 if Run.small else 6, few)
    if left() > 5:
        attempt("against the CPU", passes.against_the_cpu)
