"""Texts written together equal PEFT's `generate`, token for token, for every method and family."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.generator import Generator
from manyhats.engine.sampling import Sampling
from manyhats.engine.stream import Stream, Writing
from manyhats.engine.text import TextWriter
from manyhats.errors import AdapterMismatch
from manyhats.formats import read_adapter
from manyhats.methods.adapter import BARE, BoundAdapter
from transformers import AutoModelForCausalLM

from tests import every, tiny
from tests.parity.peft_cases import NAMES, Names

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

NEW = 12  # tokens of each text
PROMPTS = [
    [2, *(5 + random.Random(seed).randrange(tiny.WORDS) for _ in range(length))]
    for seed, length in enumerate((1, 6, 17, 33))
]
GAP = 1e-3  # of logits: nearer ones may be settled by rounding


def _lora(names: Names, **options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, target_modules=names.query_value, task_type="CAUSAL_LM", **options)


ADAPTERS: dict[str, Callable[[Names], Any]] = {
    "lora": _lora,
    "dora": lambda n: _lora(n, use_dora=True),
    "lora-biases": lambda n: _lora(n, bias="all"),
    "lora-tokens": lambda n: _lora(n, trainable_token_indices={n.words: [7, 40, 12]}),
    "ia3": lambda n: peft.IA3Config(
        target_modules=[*n.key_value, n.feed], feedforward_modules=[n.feed], task_type="CAUSAL_LM"
    ),
    "ln": lambda n: peft.LNTuningConfig(target_modules=n.norms, task_type="CAUSAL_LM"),
    "shira": lambda n: peft.ShiraConfig(r=2, target_modules=n.query_value, task_type="CAUSAL_LM"),
    "prefix": lambda n: peft.PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "prefix-long": lambda n: peft.PrefixTuningConfig(num_virtual_tokens=19, task_type="CAUSAL_LM"),
    "prompt": lambda n: peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "p-tuning": lambda n: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16, task_type="CAUSAL_LM"),
}


@dataclass(frozen=True)
class Case:
    """An adapter, and PEFT's own new tokens for each prompt; None where two tokens are all but equally likely."""

    name: str
    adapter: BoundAdapter
    expected: list[list[int] | None]


@pytest.fixture(scope="module")
def cases(base_folder: Any, load_backbone: Any, tmp_path_factory: Any) -> Callable[[str], list[Case]]:
    root = tmp_path_factory.mktemp("generation")

    @cache
    def load(family: str) -> list[Case]:
        backbone, base = load_backbone(family), base_folder(family)
        found = [Case("base", BARE, _generate(AutoModelForCausalLM.from_pretrained(base).eval()))]
        for name, config in ADAPTERS.items():
            folder = root / f"{family}-{name}"
            try:
                model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config(NAMES[family])).eval()
                tiny.randomise(model, seed=3)
                expected = _generate(model)
                model.save_pretrained(folder)
                found.append(Case(name, read_adapter(Path(folder), backbone).bind(backbone), expected))
            except AdapterMismatch:
                continue  # the matrix of methods says which and why
            except Exception:
                assert (family, name) in ABSENT  # what PEFT itself does not have
        return found

    return load


# PEFT fails on these itself: Conv1D layers, and prompts as wide as the embeddings where the blocks are wider.
ABSENT = {("gpt2", "shira"), ("opt-after", "prompt"), ("opt-after", "p-tuning")}


@torch.inference_mode()
def generate(model: Any, prompt: list[int], new: int) -> list[int] | None:
    """The library's new tokens; None where two were all but equally likely."""
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tops = [step[0].topk(2).values for step in out.logits]
    sure = min(float(top[0] - top[1]) for top in tops) > GAP
    return out.sequences[0].tolist()[len(prompt) :] if sure else None


def _generate(model: Any) -> list[list[int] | None]:
    return [generate(model, prompt, NEW) for prompt in PROMPTS]


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
def test_a_mixed_batch_equals_peft(cases: Any, load_backbone: Any, family: str) -> None:
    found = cases(family)
    assert len(found) >= 8
    assert sum(text is not None for case in found for text in case.expected) >= 2 * len(found)
    check(load_backbone(family), found, cache=1 << 24, step=512)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_prompts_in_pieces_equal_peft(cases: Any, load_backbone: Any, family: str) -> None:
    check(load_backbone(family), cases(family), cache=1 << 24, step=16)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_full_cache_changes_nothing(cases: Any, load_backbone: Any, family: str) -> None:
    """Room for three texts: the youngest give their places up, and are read again."""
    backbone = load_backbone(family)
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
    for _, bound in infinite.parts:
        for act in bound.linear.values():
            with torch.inference_mode():
                act.up.fill_(float("inf"))
    method, bound = good.parts[0]
    failing = BoundAdapter(
        "lora", "generate", ((method, type(bound)(linear=dict.fromkeys(bound.linear, Broken()))),), None
    )
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
