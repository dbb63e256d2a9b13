"""Every method of tiny backbones on the device, alone and all mixed, beside the CPU in float32."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from manyhats.backbone import Backbone
from stepping import Generation, tokens_of
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from device.child import Run, attempt, report
from device.engine_under_test import BARE, backbone_of, rows_of
from tests import every, tiny

NOT_FINITE = 1e30  # the difference where values are not finite
NEAR = 1e-3  # of two log probabilities: the other token may come as well
FAMILIES = ("bert", "llama", "roberta", "distilbert", "gpt2")
KINDS = {"fp32": "float32", "bf16": "bfloat16"}
NEW = 12  # tokens of a text
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2,
           "presence_penalty": 0.1}  # fmt: skip


def run() -> None:
    """Outputs of all families, texts, and the rotary table."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    for family in FAMILIES:
        attempt(f"{family}/all", outputs, root, family)
    for family, dtype in (("llama", "float32"), ("gpt2", "float32"), ("llama", "bfloat16")):
        attempt(f"{family}/generation {dtype}", texts, root, family, dtype)
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


def outputs(root: Path, family: str) -> None:
    """Of all methods of one family, in both precisions."""
    folder = tiny.write_base(family, root / family)
    texts = tiny.texts([1, 3, 30, 12], seed=5)
    cpu = Backbone.load(str(folder), device="cpu", dtype="float32")
    adapters = {"bare": None} | every.adapters(cpu)
    expected: dict[str, list[Tensor]] = {}
    for name, adapter in adapters.items():
        found = attempt(f"{family}/{name} on the CPU", lambda a=adapter: tiny.ask(cpu, a, texts))
        if found is not None:
            expected[name] = found
    for kind, dtype in KINDS.items():
        there = attempt(f"{family}/load {kind}", lambda d=dtype: Backbone.load(str(folder), device=Run.device, dtype=d))
        if there is not None:
            yardstick = Backbone.load(str(folder), device="cpu", dtype=dtype) if kind == "bf16" else None
            _compare(family, kind, there, yardstick, adapters, expected, texts)


def _compare(
    family: str, kind: str, there: Backbone, yardstick: Backbone | None, adapters: dict[str, Any],
    expected: dict[str, list[Tensor]], texts: list[str],
) -> None:  # fmt: skip
    """`yardstick`: the CPU's own bfloat16."""
    measure = largest if kind == "fp32" else relative
    bound: dict[str, Any] = {}
    alone: dict[str, float] = {}
    mixed: dict[str, float] = {}
    own: dict[str, float] = {}

    def one(name: str) -> None:
        ready = tiny.bound(there, adapters[name])
        alone[name] = short(measure(tiny.ask(there, ready, texts), expected[name]))
        bound[name] = ready
        if yardstick is not None:
            own[name] = short(relative(tiny.ask(yardstick, adapters[name], texts), expected[name]))

    def all_of_them() -> None:
        order = [(name, i) for i in range(len(texts)) for name in bound]
        answers = tiny.run(there, [tiny.row(there, bound[name], texts[i]) for name, i in order])
        for name in bound:
            ours = [a for a, (whose, _) in zip(answers, order, strict=True) if whose == name]
            mixed[name] = short(measure(ours, expected[name]))

    for name in expected:
        attempt(f"{family}/{name} {kind} alone", one, name)
    attempt(f"{family}/mixed {kind}", all_of_them)
    unit = "largest difference to the CPU's fp32" if kind == "fp32" else "relative error to the CPU's fp32"
    report(f"{family} {kind}", {
        "measure": unit, "methods": len(bound), "worst alone": max(alone.values(), default=None),
        "worst mixed": max(mixed.values(), default=None),
    } | ({"worst of the CPU's own bf16": max(own.values(), default=None)} if own else {}))  # fmt: skip
    by_method = {n: [alone[n], mixed.get(n), *([own[n]] if n in own else [])] for n in alone}
    report(f"{family} {kind} by method", by_method)
    if kind == "fp32":
        wrong = {n: [alone[n], mixed.get(n)] for n in alone if not max(alone[n], mixed.get(n, 0)) <= tiny.CLOSE}
        report(f"{family} fp32 over {tiny.CLOSE}", wrong)


# ---- texts

Text = tuple[str, list[int], list[float]]  # name, tokens, how far the likeliest was ahead of the next at each


def prompts() -> list[list[int]]:
    """Four, of 2 to 34 tokens."""
    return [[2, *(5 + random.Random(s).randrange(tiny.WORDS) for _ in range(n))] for s, n in enumerate((1, 6, 17, 33))]


def write(backbone: Backbone, adapters: list[tuple[str, Any]], **sampling: Any) -> list[Text]:
    """All texts of these adapters, together."""
    together = Generation(backbone, cache_bytes=1 << 23, tokens=64, streams=64)
    sequences = []
    for name, adapter in adapters:
        for i, prompt in enumerate(prompts()):
            seeded = {"seed": i} if sampling else {}
            sequences.append((name, together.add(name, adapter, prompt, NEW, logprobs=2, **sampling, **seeded)))
    for _ in range(400):
        if together.idle:
            break
        together.step()
    return [
        (name, [t.token for t in tokens_of(one)], [t.top[0][1] - t.top[1][1] for t in tokens_of(one)])
        for name, one in sequences
    ]


def texts(root: Path, family: str, dtype: str) -> None:
    """Of all methods, token by token, alone and mixed, some of them sampled with seeds."""
    if not (root / family).is_dir():
        tiny.write_base(family, root / family)
    cpu = Backbone.load(str(root / family), device="cpu", dtype="float32")
    there = Backbone.load(str(root / family), device=Run.device, dtype=dtype)
    adapters = {n: a for n, a in every.adapters(cpu).items() if n != "invertible"}
    pairs = []
    for name, adapter in ({"bare": None} | adapters).items():
        ready = attempt(f"{family}/generate {name}: bind", lambda a=adapter: (tiny.bound(cpu, a), tiny.bound(there, a)))
        if ready is not None:
            pairs.append((name, *ready))
    results: dict[str, dict[str, Any]] = {}
    expected: list[Text] = []
    for name, on_cpu, ready in pairs:
        first = attempt(f"{family}/generate {name} on the CPU", write, cpu, [(name, on_cpu)])
        if first is None:
            continue
        expected += first
        found = attempt(f"{family}/generate {name} {dtype} alone", write, there, [(name, ready)])
        if found is not None and dtype == "float32":
            _same_tokens(results, "alone", first, found)
    together = attempt(f"{family}/generate mixed {dtype}", write, there, [(n, r) for n, _, r in pairs])
    if together is not None:
        _same_tokens(results, "mixed", expected, together)
    different = {n: e["differs"] for n, e in results.items() if "differs" in e}
    report(f"{family} generation {dtype}", {
        **{what: sum(e[what] for e in results.values()) for what in ("texts", "equal", "near ties")},
        "differ": different if dtype == "float32" else "bf16: expected",
    })  # fmt: skip
    if dtype != "float32":
        return
    some = pairs[:4]
    want = attempt(f"{family}/sampled on the CPU", lambda: write(cpu, [(n, c) for n, c, _ in some], **SAMPLED))
    got = attempt(f"{family}/sampled", lambda: write(there, [(n, r) for n, _, r in some], **SAMPLED))
    if want and got:
        same = sum(a[1] == b[1] for a, b in zip(want, got, strict=True))
        report(f"{family} sampled with seeds", {"texts": len(want), "equal": same})


def _same_tokens(results: dict[str, dict[str, Any]], how: str, expected: list[Text], found: list[Text]) -> None:
    for (name, want, gaps), (_, got, _) in zip(expected, found, strict=True):
        entry = results.setdefault(name, {"texts": 0, "equal": 0, "near ties": 0})
        entry["texts"] += 1
        entry["equal"] += want == got
        if want == got:
            continue
        at = next(i for i in range(NEW) if want[i : i + 1] != got[i : i + 1])
        near = at < len(gaps) and gaps[at] < NEAR
        entry["near ties"] += near
        if not near:
            gap = f"{gaps[at]:.3f}" if at < len(gaps) else "?"
            entry.setdefault("differs", []).append(f"{how}: token {at}, the next likeliest {gap} behind")


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
