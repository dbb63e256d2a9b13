"""Texts written together equal PEFT's `generate`, as it is stored, token for token, for every method and family."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.sequence import Request
from manyhats.engine.engine import Engine
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter

from tests import engines, every, tiny
from tests.references.peft import References
from tests.references.peft_absent import ABSENT
from tests.references.peft_recipes import NEW, WRITERS
from tests.references.peft_recipes import texts as stored_texts

PROMPTS: list[list[int]] = stored_texts("generation")
GAP = 1e-3  # of logits: nearer ones may be settled by rounding


@dataclass(frozen=True)
class Case:
    """An adapter, and PEFT's own new tokens for each prompt; None where two tokens are all but equally likely."""

    name: str
    adapter: BoundAdapter
    expected: list[list[int] | None]


@pytest.fixture(scope="module")
def cases(peft_references: References, peft_backbone: Any) -> Callable[[str], list[Case]]:
    @cache
    def load(family: str) -> list[Case]:
        backbone = peft_backbone(family)
        found = []
        for name in ("base", *WRITERS):
            answer = peft_references.answer("generation", family, name)
            assert (answer.absent is not None) == (("generation", name, family) in ABSENT)
            if answer.absent is None:
                folder = peft_references.folder("generation", family, name)
                adapter = BARE if name == "base" else read_adapter(folder, backbone).bind(backbone)
                found.append(Case(name, adapter, list(answer.tokens)))
        return found

    return load


def generate(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """Runs until all are done; every step stays within its budget, but for virtual tokens, which cannot be split."""
    schedule = engine.scheduler.schedule

    def within_budget() -> Any:
        batch = schedule()
        if batch is not None:
            split = [s for s in batch.sequences if s.cached and (s.sequence.computed or not s.sequence.virtual)]
            assert sum(one.tokens for one in split) <= engine.scheduler.max_num_batched_tokens
        return batch

    engine.scheduler.schedule = within_budget  # type: ignore[method-assign]
    engines.run(engine, requests)
    return [engines.tokens(one) for one in requests]


def check(backbone: Backbone, found: list[Case], *, cache: int, step: int, most: int = 16) -> Engine:
    engine = engines.engine(backbone, cache=cache, tokens=step, seqs=most)
    asked = [(case, i) for i in range(len(PROMPTS)) for case in found]
    random.Random(1).shuffle(asked)
    texts = generate(
        engine,
        [engines.generation(backbone, case.name, case.adapter, PROMPTS[i], new=NEW) for case, i in asked],
    )
    wrong = [
        (case.name, i, case.expected[i], text)
        for (case, i), text in zip(asked, texts, strict=True)
        if case.expected[i] is not None and text != case.expected[i]
    ]
    assert not wrong
    assert engine.cache is not None
    assert engine.cache.pool.used == 0
    return engine


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_mixed_batch_equals_peft(cases: Any, peft_backbone: Any, family: str) -> None:
    found = cases(family)
    assert len(found) >= 8
    assert sum(text is not None for case in found for text in case.expected) >= 2 * len(found)
    check(peft_backbone(family), found, cache=1 << 24, step=512)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_prompts_in_pieces_equal_peft(cases: Any, peft_backbone: Any, family: str) -> None:
    check(peft_backbone(family), cases(family), cache=1 << 24, step=16)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_full_cache_changes_nothing(cases: Any, peft_backbone: Any, family: str) -> None:
    """Room for three texts: the youngest give their places up, and are read again."""
    backbone = peft_backbone(family)
    engine = check(backbone, cases(family), cache=_bytes(backbone, 12), step=32)
    assert engine.scheduler.preempted > 0


def _bytes(backbone: Backbone, blocks: int) -> int:
    kv_heads, dim = backbone.kv_shape
    return blocks * 16 * 2 * backbone.layers * kv_heads * dim * 4


def test_each_alone_equals_all_together(load_backbone: Any) -> None:
    """For the methods that no library generates with: what one writes alone, it writes among all others."""
    backbone = load_backbone("llama")
    worn = {name: adapter.bind(backbone) for name, adapter in every.adapters(backbone).items() if name != "invertible"}
    asked = [(name, prompt) for name in worn for prompt in PROMPTS[:3]]
    alone = []
    for name, prompt in asked:
        alone += generate(_engine(backbone), [_request(backbone, name, worn[name], prompt)])
    engine = engines.engine(backbone, tokens=48, seqs=24)
    together = generate(engine, [_request(backbone, name, worn[name], prompt) for name, prompt in asked])
    assert together == alone


def test_a_cached_pass_equals_a_whole_one(load_backbone: Any) -> None:
    """Each new token is the likeliest of a pass over the whole text before it."""
    from dataclasses import replace

    from manyhats.engine.forward import forward
    from manyhats.engine.forward_input import ForwardInput

    backbone = load_backbone("llama")
    for name, adapter in every.adapters(backbone).items():
        if name == "invertible":
            continue
        worn = adapter.bind(backbone)
        (text,) = generate(_engine(backbone), [engines.generation(backbone, name, worn, PROMPTS[1], new=6)])
        row = ForwardInput(PROMPTS[1], [0] * len(PROMPTS[1]), worn, next_token=True)
        for token in text:
            with torch.inference_mode():
                (logits,) = forward(backbone, [row])
            assert float(logits.max() - logits[token]) < GAP, name
            ids = [*row.ids, token]
            row = replace(row, ids=ids, type_ids=[0] * len(ids))


def test_an_adapters_fault_fails_its_own_texts_alone(load_backbone: Any) -> None:
    """Whether it shows in the pass, in the values, or before the first token."""
    backbone = load_backbone("llama")
    good = tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone)
    (expected,) = generate(_engine(backbone), [_request(backbone, "good", good, PROMPTS[1])])

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    infinite = tiny.adapter(backbone, "lora", 2, kind="generate").bind(backbone)
    tiny.spoil(infinite, lambda pair: pair.up.fill_(float("inf")))
    method, bound = good.components[0]
    failing = tiny.adapter(backbone, "lora", 2, kind="generate").bind(backbone)
    tiny.spoil(failing, lambda pair: pair.down.resize_(1, 1))
    unready = BoundAdapter("prefix", ((method, type(bound)(prefix_rows=3, key_value={0: Broken()})),), None)
    for bad in (infinite, failing, unready):
        engine = _engine(backbone)
        fine = [_request(backbone, "good", good, PROMPTS[1]) for _ in range(2)]
        faulty = _request(backbone, "bad", bad, PROMPTS[1])
        engines.step_all(engine, [fine[0], faulty, fine[1]])
        assert isinstance(faulty.future.exception(0), Exception)
        for one in fine:
            one.future.result(0)
            assert engines.tokens(one) == expected
        assert engine.cache is not None
        assert engine.cache.pool.used == 0
        assert engine.failed == 1


def test_texts_that_begin_alike_are_read_once(load_backbone: Any) -> None:
    """Under one adapter; never under another."""
    backbone = load_backbone("llama")
    first, second = (tiny.adapter(backbone, "lora", seed, kind="generate").bind(backbone) for seed in (1, 2))
    shared = PROMPTS[3]
    prompts = [[*shared, 9 + i] for i in range(4)]
    alone = [generate(_engine(backbone), [_request(backbone, "a", first, prompt)])[0] for prompt in prompts]
    engine = _engine(backbone)
    assert generate(engine, [_request(backbone, "a", first, prompt) for prompt in prompts]) == alone
    assert engine.cache.reused == 3 * 32  # two full blocks, by all but the first
    before = engine.cache.reused
    other = generate(engine, [_request(backbone, "b", second, prompts[0])])
    assert engine.cache.reused == before
    assert other == generate(_engine(backbone), [_request(backbone, "b", second, prompts[0])])


def _engine(backbone: Backbone) -> Engine:
    return engines.engine(backbone, tokens=256, seqs=8)


def _request(backbone: Backbone, name: str, adapter: BoundAdapter, prompt: list[int]) -> Request:
    return engines.generation(backbone, name, adapter, prompt, new=NEW)
