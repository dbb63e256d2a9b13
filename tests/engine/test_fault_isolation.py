"""What one sequence's fault does to the others of its batch: nothing. And passes for which there is no memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.core.sequence import Request
from manyhats.engine.engine import Engine
from manyhats.engine.kv_cache import BLOCK
from manyhats.engine.out_of_memory import PassBound
from manyhats.engine.runner import Runner
from manyhats.errors import AdapterFailure, OutOfMemory
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.slots import use_kernels

from tests import engines, every, tiny
from tests.engine.running import Make, close, outputs
from tests.engines import one_pass
from tests.waiting import PATIENCE

Load = Callable[[str], Backbone]

# The families of both attention layouts, and the one that runs padded.
FAMILIES = ("bert", "modernbert", "mpnet", "llama")


def not_finite(adapter: Adapter) -> Adapter:
    """The adapter with NaN in all its numbers, its head's included."""
    for component in adapter.components:
        for leaves in component.tensors.values():
            for tensor in leaves.values():
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))
    for layer in adapter.head.layers if adapter.head is not None else ():
        layer.weight.fill_(float("nan"))
    return adapter


# ---- values that are not finite


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_in_one_sequence_reaches_no_other_of_its_pass(load_backbone: Load, family: str, kernels: str) -> None:
    backbone = load_backbone(family)
    use_kernels(backbone, kernels)
    try:
        check_isolation(backbone)
    finally:
        use_kernels(backbone, "auto")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_in_one_sequence_reaches_no_other_on_cuda(
    base_folder: Callable[[str], Path], family: str, dtype: str
) -> None:
    check_isolation(Backbone.load(str(base_folder(family)), device="cuda", dtype=dtype))


def check_isolation(backbone: Backbone) -> None:
    """Of every method, one adapter that is in order and one with NaN side by side; and the bare backbone."""
    texts = tiny.texts([3, 4, 11])
    good = [adapter.bind(backbone) for adapter in every.adapters(backbone).values()]
    own = every.adapters(backbone, 5)
    # A mask has no numbers, and the texts do not have the words whose rows the second changes.
    bad = [not_finite(one).bind(backbone) for name, one in own.items() if name not in ("mask", "token_rows")]
    bound = [BARE, *(one for pair in zip_longest(good, bad) for one in pair if one is not None)]
    expected = {one: tiny.alone(backbone, one, texts, "mean") for one in (BARE, *good)}
    one = engines.engine(backbone)
    requests = [one_pass(backbone, adapter, texts, f"t{i}") for i, adapter in enumerate(bound)]
    one.submit(requests)
    while one.step():
        pass
    close = tiny.CLOSE if backbone.dtype == torch.float32 else 0.1
    for request, adapter in zip(requests, bound, strict=True):
        if adapter in expected:
            right = [output.float().cpu() for output in expected[adapter]]
            found = [torch.tensor(output) for output in outputs(request)]
            assert tiny.difference(found, right) < close, adapter.method
        else:
            assert isinstance(request.future.exception(0), AdapterFailure), adapter.method


def generations(backbone: Backbone, adapters: list[BoundAdapter], new: int = 6) -> list[Request]:
    prompts = [[5, 6, 7, 8], list(range(4, 4 + 2 * BLOCK)), [9], [11, 3]]
    return [
        engines.generation(backbone, f"t{i}", adapter, prompts[i % 4], new=new) for i, adapter in enumerate(adapters)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nan_in_one_text_reaches_no_other(load_backbone: Load, family: str) -> None:
    """Neither beside it, nor through blocks that it gave back."""
    backbone = load_backbone(family)
    good = [BARE, tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone)]
    bad = not_finite(tiny.adapter(backbone, "lora", 2, kind="generate")).bind(backbone)
    one = engines.engine(backbone)
    alone = generations(backbone, [good[0], good[1], good[0], good[1]])
    for request in alone:
        engines.run(engines.engine(backbone), [request])
    together = generations(backbone, [good[0], good[1], good[0], good[1], bad, bad])
    engines.step_all(one, together)
    assert all(isinstance(request.future.exception(0), AdapterFailure) for request in together[4:])
    assert [engines.tokens(r) for r in together[:4]] == [engines.tokens(r) for r in alone]
    again = generations(backbone, [good[0], good[1], good[0], good[1]])  # in the blocks that were given back
    for i, request in enumerate(again):
        request.digest = f"fresh {i}"
    engines.run(one, again)
    assert [engines.tokens(r) for r in again] == [engines.tokens(r) for r in alone]


def test_rows_that_nobody_wrote_are_read_by_nobody(load_backbone: Load) -> None:
    """NaN in every row of the cache: each sequence reads the rows it wrote itself, and no more."""
    backbone = load_backbone("llama")
    prefix = tiny.adapter(backbone, "prefix", 2).bind(backbone)
    adapters = [BARE, tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone), prefix, BARE]
    alone = generations(backbone, adapters)
    for request in alone:
        engines.run(engines.engine(backbone), [request])
    one = engines.engine(backbone, tokens=24)  # in chunks
    assert one.cache is not None
    with torch.inference_mode():
        for entries in one.cache.tensors.entries:
            entries.fill_(float("nan"))
    together = generations(backbone, adapters)
    engines.run(one, together)
    assert [engines.tokens(r) for r in together] == [engines.tokens(r) for r in alone]


def test_blocks_of_a_failed_text_are_not_found_by_the_next(load_backbone: Load, monkeypatch: Any) -> None:
    """A fault that passes: the prompt's blocks have NaN once, and the next request computes them anew."""
    backbone = load_backbone("llama")
    prompt = list(range(4, 4 + 3 * BLOCK))
    expected = engines.generation(backbone, "t", BARE, prompt)
    engines.run(engines.engine(backbone), [expected])
    one = engines.engine(backbone, tokens=BLOCK)  # the first chunks are cached before a token is sampled
    assert one.cache is not None
    encode = Backbone.encode
    broken = [True]

    def encoding(self: Backbone, batch: Any, *given: Any) -> Any:
        states = encode(self, batch, *given)
        if broken[0]:
            assert one.cache is not None
            for entries in one.cache.tensors.entries:
                entries.fill_(float("nan"))
            states.fill_(float("nan"))
        return states

    monkeypatch.setattr(Backbone, "encode", encoding)
    failing = engines.generation(backbone, "t", BARE, prompt)
    engines.step_all(one, [failing])
    assert isinstance(failing.future.exception(0), AdapterFailure)
    assert one.cache.pool.used == 0
    assert not one.cache.pool._cached
    broken[0] = False
    after = engines.generation(backbone, "t", BARE, prompt)
    engines.run(one, [after])
    assert engines.tokens(after) == engines.tokens(expected)
    assert one.cache.reused == 0


# ---- memory


class Memory:
    """A pass with more than `limit` tokens finds none, as torch says it. Remembers the tokens of each pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int, error: Exception | None = None) -> None:
        self.limit = limit
        self.passes: list[int] = []
        run = Runner._run

        def limited(runner: Runner, entries: Any) -> Any:
            tokens = sum(entry.tokens for entry in entries)
            self.passes.append(tokens)
            if tokens > self.limit:
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return run(runner, entries)

        monkeypatch.setattr(Runner, "_run", limited)


@pytest.mark.parametrize(
    "error",
    [
        None,
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
)
def test_a_pass_without_memory_is_run_in_parts_and_the_next_are_smaller(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    texts = tiny.texts([6] * 4)
    expected = tiny.alone(bert, BARE, texts, "mean")
    one = engine(start=False)
    memory = Memory(monkeypatch, 100, error)
    requests = [one_pass(bert, BARE, texts, f"t{i}") for i in range(8)]
    one.submit(requests)
    while one.step():
        pass
    assert all(close(outputs(request), expected) for request in requests)
    total = sum(sequence.length for request in requests for sequence in request.sequences)
    assert memory.passes == [total, total // 2, total // 4, total // 4, total // 2, total // 4, total // 4]
    assert (one.pass_bound.exceeded, one.pass_bound.tokens) == (3, total // 4)
    memory.passes.clear()
    again = [one_pass(bert, BARE, texts, f"t{i}") for i in range(8)]
    one.submit(again)
    while one.step():
        pass
    assert all(close(outputs(request), expected) for request in again)
    assert max(memory.passes) <= 100
    assert one.pass_bound.exceeded == 3
    assert one.failed == 0


def test_a_request_that_never_fits_fails_alone_and_says_so(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(start=False)
    Memory(monkeypatch, 20)
    small, large = one_pass(bert, BARE, ["w1"], "small"), one_pass(bert, BARE, tiny.texts([30]), "large")
    one.submit([small, large])
    while one.step():
        pass
    assert small.future.result(0) is None
    with pytest.raises(
        OutOfMemory, match=r"a pass with 32 tokens of the task large and nothing else takes more memory"
    ):
        large.future.result(0)
    assert one.healthy is False  # it was never started
    assert one.restarts == 0


def test_a_prompt_is_computed_in_smaller_chunks_where_memory_is_short(
    load_backbone: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("llama")
    prompt = list(range(4, 44))
    prefix = tiny.adapter(backbone, "prefix", 2).bind(backbone)
    for adapter in (BARE, prefix):
        expected = engines.generation(backbone, "t", adapter, prompt, top=2)
        engines.run(engines.engine(backbone), [expected])
        with monkeypatch.context() as patch:
            one = engines.engine(backbone)
            memory = Memory(patch, 12)
            request = engines.generation(backbone, "t", adapter, prompt, top=2)
            engines.run(one, [request])
        assert engines.tokens(request) == engines.tokens(expected)
        given, right = (r.sequences[0].prompt_logprobs for r in (request, expected))
        assert [s.logprob for s in given.scores[1:]] == pytest.approx([s.logprob for s in right.scores[1:]], abs=1e-4)
        assert [tokens for tokens in memory.passes if tokens <= 12]
        assert one.pass_bound.exceeded > 0


def test_texts_beside_each_other_survive_want_of_memory(load_backbone: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("llama")
    adapters = [BARE, tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone), BARE, BARE]
    alone = generations(backbone, adapters)
    for request in alone:
        engines.run(engines.engine(backbone), [request])
    memory = Memory(monkeypatch, 2)
    one = engines.engine(backbone)
    together = generations(backbone, adapters)
    engines.run(one, together)
    assert [engines.tokens(r) for r in together] == [engines.tokens(r) for r in alone]
    assert max(memory.passes) > 2
    assert one.failed == 0


def test_the_bound_recovers_and_is_never_too_low() -> None:
    now = [0.0]
    bound = PassBound(2048, 1, lambda: now[0])
    assert not bound.lowered
    bound.lower(2000)
    bound.lower(1000)
    bound.lower(10)
    assert (bound.tokens, bound.exceeded, bound.lowered) == (64, 3, True)
    bound.recover()
    assert bound.tokens == 64
    seen = []
    while bound.lowered:
        now[0] += 30.0
        bound.recover()
        seen.append(bound.tokens)
    assert seen == [128, 256, 512, 1024, 2048]
    assert PassBound(2048, 500).tokens == 2048
    low = PassBound(2048, 500)
    low.lower(100)
    assert low.tokens == 500


def test_an_engine_recovers_from_want_of_memory(bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one: Engine = engine()
    memory = Memory(monkeypatch, 50)
    request = one_pass(bert, BARE, tiny.texts([8] * 20))
    one.submit([request])
    request.future.result(PATIENCE)
    assert one.pass_bound.lowered
    assert one.healthy
    memory.limit = 10_000
    assert np.isfinite(outputs(request)).all()
