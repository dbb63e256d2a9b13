"""Texts of all methods on tiny backbones, token by token beside the CPU's: alone, mixed, and while adapters change."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.slots import slot_tables
from stepping import Generation, tokens_of

from device.child import Run, attempt, figure, report
from device.engine_under_test import use, without_graphs
from device.targets import TEXTS
from tests import every, tiny

NEAR = 1e-3  # of two log probabilities: the other token may come as well
NEW, LONG = 12, 28  # tokens of a text
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2,
           "presence_penalty": 0.1}  # fmt: skip
SWAPS = ("lora", "ia3", "bottleneck", "mask", "lora+ia3", "sparse", "prefix")  # one after another, in a slot


class Text(NamedTuple):
    """`gaps`: how far the likeliest token was ahead of the next."""

    name: str
    tokens: list[int]
    gaps: list[float]


class Written:
    """The texts of a family on the CPU, and how many were different elsewhere."""

    def __init__(self, root: Path, family: str) -> None:
        self.folder = root / family
        if not self.folder.is_dir():
            tiny.write_base(family, self.folder)
        self.family = family
        self.cpu = Backbone.load(str(self.folder), device="cpu", dtype="float32")
        self.adapters: dict[str, Adapter | None] = {"bare": None}
        self.adapters |= {n: a for n, a in every.adapters(self.cpu).items() if n != "invertible"}
        self.on_cpu = {name: tiny.bound(self.cpu, one) for name, one in self.adapters.items()}
        self.expected = {n: write(self.cpu, {n: one}) for n, one in self.on_cpu.items()}
        self.differ = 0

    def there(self, backend: str, dtype: str = "float32") -> Backbone:
        """On the device, with that backend's kernels."""
        backbone = Backbone.load(str(self.folder), device=Run.device, dtype=dtype)
        use(backbone, backend)
        return backbone

    def alone_and_mixed(self, backend: str) -> None:
        """Of each method, of all in one batch, and of some sampled with seeds; steps without graphs too."""
        prefix = f"{self.family}/generation {backend}"
        there = self.there(backend)
        ready: dict[str, BoundAdapter] = {}
        for name, one in self.adapters.items():
            found = attempt(f"{prefix}/{name}: bind", tiny.bound, there, one)
            if found is not None:
                ready[name] = found
        for name, one in ready.items():
            self._compare(f"{prefix}/alone", attempt(f"{prefix}/{name}", write, there, {name: one}), name)
        mixed = attempt(f"{prefix}/mixed", write, there, ready)
        self._compare(f"{prefix}/mixed", mixed)
        if mixed is not None and generation_of(there).runner.graphs is not None:
            eager = attempt(f"{prefix}/mixed, without graphs", lambda: write(there, ready, graphs=False))
            self._compare(f"{prefix}/mixed, without graphs", eager)
        some = dict(list(ready.items())[:4])
        on_cpu = {name: self.on_cpu[name] for name in some}
        want = attempt(f"{prefix}/sampled on the CPU", lambda: write(self.cpu, on_cpu, **SAMPLED))
        got = attempt(f"{prefix}/sampled", lambda: write(there, some, **SAMPLED))
        if want and got:
            self._told(f"{prefix}/sampled with seeds", want, got)

    def in_bfloat16(self, backend: str) -> None:
        """How many texts are the same, of which the type makes others."""
        there = self.there(backend, "bfloat16")
        found = write(there, {name: tiny.bound(there, one) for name, one in self.adapters.items()})
        expected = [text for own in self.expected.values() for text in own]
        same = sum(a.tokens == b.tokens for a, b in zip(expected, found, strict=True))
        report(f"{self.family}/generation {backend} bfloat16", {"texts": len(found), "equal": same})

    def while_adapters_change(self, backend: str) -> None:
        """A slot that changes hands between steps, of another method and rank each time, beside texts that go on."""
        there = self.there(backend)
        tables = slot_tables(there)
        long = {f"long {name}": name for name in ("bare", "lora", "fusion")}  # texts that the swaps go past
        kept = {own: tiny.bound(there, self.adapters[name]) for own, name in long.items()}
        together = generation_of(there)
        written = [(name, self._begin(together, name, one, LONG)) for name, one in kept.items()]
        ranks = {f"rank {rank}": tiny.adapter(self.cpu, "lora", rank, rank=rank) for rank in (1, 9, 20)}
        expected = dict(self.expected)
        for name, adapter in ranks.items():
            expected[name] = write(self.cpu, {name: tiny.bound(self.cpu, adapter)})
        slots = []
        for name in (*SWAPS, *ranks):
            new = tiny.bound(there, ranks.get(name) or self.adapters[name])
            mine = self._begin(together, name, new, NEW)
            for _ in range(NEW + 2):
                together.step()
            together.runner.drop_plan()
            slots.append(new.slot)
            tables.release(new)
            written.append((name, mine))
        for own, name in long.items():
            expected[own] = write(self.cpu, {own: self.on_cpu[name]}, new=LONG)
        want = [text for name, _ in written for text in expected[name]]
        got = [text for name, own in written for text in texts_of(name, own)]
        graphs = together.runner.graphs
        counts = {} if graphs is None else {"captured": graphs.captured, "replayed": graphs.replayed}
        report(f"{self.family}/swaps {backend}: slots", {"slots": slots} | counts)
        self._told(f"{self.family}/swaps {backend}", want, got)

    @staticmethod
    def _begin(together: Generation, name: str, adapter: BoundAdapter, new: int) -> list[Any]:
        return [together.add(name, adapter, prompt, new, logprobs=2) for prompt in prompts()]

    def _compare(self, key: str, found: list[Text] | None, *names: str) -> None:
        """With what the CPU wrote."""
        if found is None:
            return
        kept = dict.fromkeys(names or (text.name for text in found))
        self._told(key, [text for name in kept for text in self.expected[name]], found)

    def _told(self, key: str, expected: list[Text], found: list[Text]) -> None:
        """Reports all that was compared under this key."""
        known = _COMPARED.setdefault(key, {"texts": 0, "equal": 0, "near ties": 0, "differ": {}})
        for want, got in zip(expected, found, strict=True):
            known["texts"] += 1
            if want.tokens == got.tokens:
                known["equal"] += 1
                continue
            pairs = zip(want.tokens, got.tokens, strict=False)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(want.gaps) - 1)
            if want.gaps and want.gaps[at] < NEAR:
                known["near ties"] += 1
            else:
                self.differ += 1
                known["differ"][want.name] = {"at": at, "expected": want.tokens[at:][:4], "found": got.tokens[at:][:4]}
        report(key, known)


_COMPARED: dict[str, dict[str, Any]] = {}  # by what was reported


class Texts:
    """Of some families; what the CPU writes is written once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[str, Written] = {}

    def beside(self, backend: str) -> None:
        """All texts with that backend's kernels."""
        for family in ("llama", "mistral", "gpt2"):
            if family not in self._written:
                written = attempt(f"{family}/texts on the CPU", Written, self._root, family)
                if written is None:
                    continue
                self._written[family] = written
            own = self._written[family]
            attempt(f"{family}/generation {backend}", own.alone_and_mixed, backend)
            if family == "llama":
                attempt(f"{family}/swaps {backend}", own.while_adapters_change, backend)
                attempt(f"{family}/bfloat16 {backend}", own.in_bfloat16, backend)
            figure(TEXTS, sum(one.differ for one in self._written.values()))


def prompts() -> list[list[int]]:
    """Four, of 2 to 34 tokens."""
    return [[2, *(5 + random.Random(s).randrange(tiny.WORDS) for _ in range(n))] for s, n in enumerate((1, 6, 17, 33))]


def generation_of(backbone: Backbone) -> Generation:
    """Nothing under way yet."""
    return Generation(backbone, cache_bytes=1 << 23, tokens=64, streams=64)


def write(
    backbone: Backbone, adapters: dict[str, BoundAdapter], *, graphs: bool = True, new: int = NEW, **sampling: Any
) -> list[Text]:
    """All texts of these adapters, together."""
    together = generation_of(backbone)
    if not graphs:
        without_graphs(together)
    sequences = []
    for name, adapter in adapters.items():
        for i, prompt in enumerate(prompts()):
            seeded = {"seed": i} if sampling else {}
            sequences.append((name, together.add(name, adapter, prompt, new, logprobs=2, **sampling, **seeded)))
    for _ in range(400):
        if together.idle:
            break
        together.step()
    return [text for name, one in sequences for text in texts_of(name, [one])]


def texts_of(name: str, sequences: list[Any]) -> list[Text]:
    """What was written."""
    found = []
    for one in sequences:
        tokens = tokens_of(one)
        found.append(Text(name, [t.token for t in tokens], [t.top[0][1] - t.top[1][1] for t in tokens]))
    return found
