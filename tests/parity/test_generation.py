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
from manyhats.engine.generator import Generator
from manyhats.engine.sampling import Sampling
from manyhats.engine.stream import Stream, Writing
from manyhats.engine.text import TextWriter
from manyhats.formats.reader import read_adapter
from manyhats.methods.adapter import BARE, BoundAdapter

from tests import every, tiny
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


def writing(backbone: Backbone, name: str, adapter: BoundAdapter, prompt: list[int], new: int = NEW) -> Writing:
    text = TextWriter(backbone.tokenizer)
    return Writing(name, name, [Stream(0, adapter, prompt, new, Sampling(), frozenset(), text)])


def write(generator: Generator, writings: list[Writing]) -> list[list[int]]:
    """Runs until all are done; every step stays within its budget."""
    for one in writings:
        generator.add(one)
    for _ in range(5000):
        if generator.idle:
            break
        turn = generator.arrange()
        assert sum(count for stream, count in turn if not stream.adapter.whole) <= generator.step_tokens
        generator.advance(turn)
    for one in writings:
        one.future.result(0)
    return [[chosen.token for chosen in one.streams[0].tokens] for one in writings]


def check(backbone: Backbone, found: list[Case], *, cache: int, step: int, most: int = 16) -> Generator:
    generator = Generator(backbone, cache_bytes=cache, step_tokens=step, most=most)
    asked = [(case, i) for i in range(len(PROMPTS)) for case in found]
    random.Random(1).shuffle(asked)
    texts = write(generator, [writing(backbone, case.name, case.adapter, PROMPTS[i]) for case, i in asked])
    wrong = [
        (case.name, i, case.expected[i], text)
        for (case, i), text in zip(asked, texts, strict=True)
        if case.expected[i] is not None and text != case.expected[i]
    ]
    assert not wrong
    assert generator.pool.used == 0
    return generator


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
    generator = check(backbone, cases(family), cache=_bytes(backbone, 12), step=32)
    assert generator.preempted > 0


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
        generator = Generator(backbone, cache_bytes=1 << 22, step_tokens=512, most=4)
        alone += write(generator, [writing(backbone, name, worn[name], prompt)])
    generator = Generator(backbone, cache_bytes=1 << 22, step_tokens=48, most=24)
    together = write(generator, [writing(backbone, name, worn[name], prompt) for name, prompt in asked])
    assert together == alone


def test_a_cached_pass_equals_a_whole_one(load_backbone: Any) -> None:
    """Each new token is the likeliest of a pass over the whole text before it."""
    from dataclasses import replace

    from manyhats.engine.forward import Row, forward

    backbone = load_backbone("llama")
    for name, adapter in every.adapters(backbone).items():
        if name == "invertible":
            continue
        worn = adapter.bind(backbone)
        generator = Generator(backbone, cache_bytes=1 << 22, step_tokens=512, most=4)
        (text,) = write(generator, [writing(backbone, name, worn, PROMPTS[1], new=6)])
        row = Row(PROMPTS[1], [0] * len(PROMPTS[1]), worn, continues=True)
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
    (expected,) = write(_generator(backbone), [writing(backbone, "good", good, PROMPTS[1])])

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    infinite = tiny.adapter(backbone, "lora", 2, kind="generate").bind(backbone)
    tiny.spoil(infinite, lambda pair: pair.up.fill_(float("inf")))
    method, bound = good.parts[0]
    failing = tiny.adapter(backbone, "lora", 2, kind="generate").bind(backbone)
    tiny.spoil(failing, lambda pair: pair.down.resize_(1, 1))
    unready = BoundAdapter("prefix", "generate", ((method, type(bound)(prefix_rows=3, key_value={0: Broken()})),), None)
    for bad in (infinite, failing, unready):
        generator = _generator(backbone)
        fine = [writing(backbone, "good", good, PROMPTS[1]) for _ in range(2)]
        faulty = writing(backbone, "bad", bad, PROMPTS[1])
        for one in (fine[0], faulty, fine[1]):
            generator.add(one)
        while not generator.idle:
            generator.advance(generator.arrange())
        assert isinstance(faulty.future.exception(0), Exception)
        for one in fine:
            one.future.result(0)
            assert [chosen.token for chosen in one.streams[0].tokens] == expected
        assert generator.pool.used == 0


def test_texts_that_begin_alike_are_read_once(load_backbone: Any) -> None:
    """Under one adapter; never under another."""
    backbone = load_backbone("llama")
    first, second = (tiny.adapter(backbone, "lora", seed, kind="generate").bind(backbone) for seed in (1, 2))
    shared = PROMPTS[3]
    prompts = [[*shared, 9 + i] for i in range(4)]
    alone = [write(_generator(backbone), [writing(backbone, "a", first, prompt)])[0] for prompt in prompts]
    generator = _generator(backbone)
    assert write(generator, [writing(backbone, "a", first, prompt) for prompt in prompts]) == alone
    assert generator.reused == 3 * 32  # two full blocks, by all but the first
    before = generator.reused
    other = write(generator, [writing(backbone, "b", second, prompts[0])])
    assert generator.reused == before
    assert other == write(_generator(backbone), [writing(backbone, "b", second, prompts[0])])


def _generator(backbone: Backbone) -> Generator:
    return Generator(backbone, cache_bytes=1 << 22, step_tokens=256, most=8)
