"""Every method of tiny backbones on the device, alone and all mixed, beside the CPU in float32."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from manyhats.backbone import Backbone
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from device import texts
from device.child import Run, attempt, figure, report
from device.engine_under_test import BARE, backbone_of, backends, rows_of, use
from device.targets import METHODS
from tests import every, tiny

NOT_FINITE = 1e30  # the difference where values are not finite
CLOSE_BF16 = 1e-2
FAMILIES = ("bert", "llama", "roberta", "distilbert", "gpt2")
KINDS = {"fp32": "float32", "bf16": "bfloat16"}
MEASURES = {"fp32": "largest difference to the CPU's fp32", "bf16": "relative error to the CPU's fp32"}


def run() -> None:
    """Outputs of all families, texts, and the rotary table."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    made: dict[str, Expected] = {}
    written = texts.Texts(root)
    wrong = 0
    for backend in backends():
        for family in FAMILIES:
            if family not in made:
                expected = attempt(f"{family} on the CPU", Expected, root, family)
                if expected is None:
                    continue
                made[family] = expected
            for kind in KINDS:
                wrong += attempt(f"{family} {kind} {backend}", compare, made[family], backend, kind) or 0
                figure(METHODS, wrong)
        written.beside(backend)
    attempt("rotary", rotary)


def both(ones: list[Tensor], others: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Two lists of outputs as two vectors."""
    assert [tuple(t.shape) for t in ones] == [tuple(t.shape) for t in others], "other shapes"
    one, other = (torch.cat([t.detach().float().cpu().double().flatten() for t in ts]) for ts in (ones, others))
    return one, other


def relative(ones: list[Tensor], others: list[Tensor]) -> float:
    """The error's share of the second's length."""
    one, other = both(ones, others)
    return float((one - other).norm() / other.norm()) if bool(torch.isfinite(one).all()) else NOT_FINITE


def largest(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference."""
    one, other = both(ones, others)
    return float((one - other).abs().max()) if bool(torch.isfinite(one).all()) else NOT_FINITE


def short(number: float) -> float:
    """Two digits."""
    return float(f"{number:.2g}")


# ---- outputs


class Expected:
    """A family's outputs of all methods on the CPU in float32, and how far off its own bfloat16 is."""

    def __init__(self, root: Path, family: str) -> None:
        self.family = family
        self.folder = tiny.write_base(family, root / family)
        self.texts = tiny.texts([1, 3, 30, 12], seed=5)
        cpu, rounded = (Backbone.load(str(self.folder), device="cpu", dtype=dtype) for dtype in KINDS.values())
        self.adapters = {"bare": None} | every.adapters(cpu)
        self.outputs: dict[str, list[Tensor]] = {}
        self.rounding: dict[str, float] = {}
        for name, adapter in self.adapters.items():
            found = attempt(f"{family}/{name} on the CPU", lambda a=adapter: tiny.ask(cpu, a, self.texts))
            if found is not None:
                self.outputs[name] = found
                self.rounding[name] = short(relative(tiny.ask(rounded, adapter, self.texts), found))

    def allowed(self, name: str, kind: str) -> float:
        """The largest difference in float32; in bfloat16 the relative error, or the CPU's own where that is more."""
        return tiny.CLOSE if kind == "fp32" else max(CLOSE_BF16, 1.5 * self.rounding[name])


def compare(expected: Expected, backend: str, kind: str) -> int:
    """How many methods differ on the device with that backend's kernels, alone or mixed."""
    family, sentences = expected.family, expected.texts
    case = f"{family} {kind} {backend}"
    there = Backbone.load(str(expected.folder), device=Run.device, dtype=KINDS[kind])
    use(there, backend)
    measure = largest if kind == "fp32" else relative
    bound: dict[str, Any] = {}
    alone: dict[str, float] = {}
    mixed: dict[str, float] = {}

    def one(name: str) -> None:
        ready = tiny.bound(there, expected.adapters[name])
        alone[name] = short(measure(tiny.ask(there, ready, sentences), expected.outputs[name]))
        bound[name] = ready

    def all_of_them() -> None:
        order = [(name, i) for i in range(len(sentences)) for name in bound]
        answers = tiny.run(there, [tiny.row(there, bound[name], sentences[i]) for name, i in order])
        for name in bound:
            ours = [a for a, (whose, _) in zip(answers, order, strict=True) if whose == name]
            mixed[name] = short(measure(ours, expected.outputs[name]))

    for name in expected.outputs:
        attempt(f"{case}/{name} alone", one, name)
    attempt(f"{case}/mixed", all_of_them)
    both_ways = {name: [alone[name], mixed.get(name)] for name in alone}
    wrong = {
        name: found
        for name, found in both_ways.items()
        if not all(error is not None and error <= expected.allowed(name, kind) for error in found)
    }
    report(case, {
        "measure": MEASURES[kind], "methods": len(bound), "over": wrong,
        "worst alone": max(alone.values(), default=None), "worst mixed": max(mixed.values(), default=None),
    } | ({} if kind == "fp32" else {"worst of the CPU's own bf16": max(expected.rounding.values())}))  # fmt: skip
    report(f"{case} by method", both_ways)
    return len(wrong)


# ---- the rotary table


def rotary() -> None:
    """What casting the table of frequencies to bf16 costs on a longer text."""
    shape = {"vocab_size": 200, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 256, "max_position_embeddings": 2048}  # fmt: skip
    reference = LlamaModel(LlamaConfig(**shape))
    tiny.randomise(reference, 3, 0.15)
    weights = reference.state_dict()
    pick = random.Random(1)
    ids = [[pick.randrange(200) for _ in range(1000)]]
    on_cpu = backbone_of(reference, "llama", torch.float32, device="cpu")
    expected = tiny.run(on_cpu, rows_of([BARE], ids, "none"))
    errors: dict[str, Any] = {}
    for name in ("as it is", "with the table in fp32"):
        model = LlamaModel(LlamaConfig(**shape))
        model.load_state_dict(weights)
        table = model.rotary_emb.inv_freq.clone()
        there = backbone_of(model.to(Run.device), "llama", torch.bfloat16)
        kept = str(there.model.rotary_emb.inv_freq.dtype)
        if name != "as it is":
            there.model.rotary_emb.inv_freq = table.to(Run.device)
        errors[name] = short(relative(tiny.run(there, rows_of([BARE], ids, "none")), expected))
        errors.setdefault("dtype of the table", kept.removeprefix("torch."))
    report("rotary table in bf16, 1000 tokens, relative error", errors)
