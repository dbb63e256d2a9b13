"""Whole and cached sequences in one pass: each gets what it gets alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Actors, Backbone, SequenceChunk, pack_chunks
from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.backbone.cache import KeyValueCache, RowAttention
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.backbone.varlen_attention import VarlenAttention
from manyhats.backbone.varlen_layout import attention_layout
from manyhats.kernels.registry import choose
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests import tiny

CPU = torch.device("cpu")
HEADS, KV_HEADS, DIM = 4, 2, 4


class Case(NamedTuple):
    """One sequence: rows of its prefix, of its earlier tokens (cached alone), and of the pass."""

    cached: bool
    prefix: int
    earlier: int
    new: int
    left_out: bool


cases = st.builds(
    Case,
    cached=st.booleans(),
    prefix=st.integers(0, 5),
    earlier=st.integers(0, 40),
    new=st.one_of(st.just(1), st.integers(1, 20)),
    left_out=st.booleans(),
)


def plain(q: Tensor, k: Tensor, v: Tensor, hidden: int, causal: bool, window: int | None) -> Tensor:
    """q: the last of the rows k and v. The first `hidden` of them are not seen."""
    before = len(k) - len(q)
    positions = torch.arange(len(k))
    out = torch.empty(q.shape)
    for i in range(len(q)):
        seen = positions >= hidden
        if causal:
            seen &= positions <= before + i
        if window is not None:
            seen &= (before + i - positions).abs() < window
        for head in range(HEADS):
            own = head // (HEADS // KV_HEADS)
            weights = torch.softmax(k[seen, own] @ q[i, head] / math.sqrt(DIM), 0)
            out[i, head] = weights @ v[seen, own]
    return out


def check(
    some: Sequence[Case],
    causal: bool,
    window: int | None,
    seed: int,
    attention: RowAttention | None = None,
    varlen: VarlenAttention | None = None,
) -> None:
    """A pass over all of them, against one sequence after the other. `attention`: of those with one new token;
    `varlen`: of the others, where no prefix is hidden."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    count = sum(case.prefix + case.earlier + case.new for case in some)
    slots = torch.randperm(count, generator=generator).numpy()
    cache = KeyValueCache(count, 2, (KV_HEADS, DIM), CPU, torch.float32, attention)
    cache.entries[0][:, :count].copy_(fresh(2, count, KV_HEADS, DIM))
    tokens = sum(case.new for case in some)
    behind = sum(case.prefix for case in some if not case.cached)
    q = fresh(tokens, HEADS, DIM)
    k, v = fresh(2, tokens + behind, KV_HEADS, DIM).unbind(0)
    chunks: list[SequenceChunk] = []
    expected: list[Tensor] = []
    row = slot = 0
    prefix = tokens
    for case in some:
        own = slice(row, row + case.new)
        left_out = frozenset({0}) if case.left_out else frozenset({1})
        keys, values = k[own], v[own]
        if case.cached:
            rows = slots[slot : slot + case.prefix + case.earlier + case.new]
            slot += len(rows)
            chunk = SequenceChunk(
                [0] * case.new, case.earlier, cache_rows=rows, cached_prefix=case.prefix, left_out=left_out
            )
            seen = cache.entries[0][:, rows[: case.prefix + case.earlier]]
        else:
            chunk = SequenceChunk(
                [0] * case.new, left_out=left_out, batch_prefix=(prefix - tokens, prefix - tokens + case.prefix)
            )
            seen = torch.stack([k[prefix : prefix + case.prefix], v[prefix : prefix + case.prefix]])
            prefix += case.prefix
        chunks.append(chunk)
        hidden = case.prefix if case.left_out else 0
        expected.append(plain(q[own], torch.cat([seen[0], keys]), torch.cat([seen[1], values]), hidden, causal, window))
        row += case.new
    staging = StagingBuffer(HostBuffers(CPU))
    layout = attention_layout(
        chunks, staging, causal=causal, device=CPU, dtype=torch.float32, cache=cache, varlen=varlen
    )
    staging.commit()
    torch.testing.assert_close(layout.attend(0, q, k, v, None, window), torch.cat(expected), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    some=st.lists(cases, min_size=1, max_size=7),
    window=st.sampled_from([None, 3, 8]),
    seed=st.integers(0, 999),
    gradients=st.booleans(),
    rows_read=st.booleans(),
)
def test_each_gets_what_it_gets_alone(
    some: list[Case], window: int | None, seed: int, gradients: bool, rows_read: bool
) -> None:
    with torch.set_grad_enabled(gradients):
        check(some, causal=True, window=window, seed=seed, attention=choose(CPU).row_attention if rows_read else None)


class Noting:
    """Row attention that counts its calls, and computes nothing."""

    on_host = True

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []  # sequences, and whether it writes their keys and values

    def __call__(self, q: Tensor, new: tuple[Tensor, Tensor] | None, *_: object) -> Tensor:
        self.calls.append((len(q), new is not None))
        return q


def test_a_step_of_decodes_is_one_call_and_no_other_operation() -> None:
    for lengths, writes in (([9, 30, 200], True), ([9, 30, 200, 4], False)):
        noting = Noting()
        cache = KeyValueCache(300, 1, (KV_HEADS, DIM), CPU, torch.float32, noting)
        staging = StagingBuffer(HostBuffers(CPU))
        chunks = [SequenceChunk([0], n - 1, cache_rows=np.arange(n)) for n in lengths[:3]]
        chunks += [SequenceChunk([0] * n, cache_rows=np.arange(n)) for n in lengths[3:]]
        tokens = sum(chunk.length for chunk in chunks)
        q, k, v = (torch.zeros(tokens, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        with torch.inference_mode():
            layout = AttentionLayout(chunks, staging, causal=True, device=CPU, dtype=torch.float32, cache=cache)
            staging.commit()
            with profile(activities=[ProfilerActivity.CPU]) as record:
                out = layout.attend(0, q, k, v, None, None)
        assert noting.calls == [(3, writes)]  # whatever their lengths
        assert out.shape == (tokens, HEADS, DIM)
        if writes:
            assert not record.events()


@settings(max_examples=30, deadline=None)
@given(
    some=st.lists(cases.map(lambda case: case._replace(cached=False)), min_size=1, max_size=7),
    window=st.sampled_from([None, 3, 8]),
    seed=st.integers(0, 999),
)
def test_so_do_whole_ones_that_see_both_ways(some: list[Case], window: int | None, seed: int) -> None:
    check(some, causal=False, window=window, seed=seed)


def test_decodes_are_neither_gathered_nor_masked() -> None:
    """Where all see as many rows: nothing but attention itself stands in the way."""
    cache = KeyValueCache(40, 1, (KV_HEADS, DIM), CPU, torch.float32)
    staging = StagingBuffer(HostBuffers(CPU))
    chunks = [SequenceChunk([0], 9, cache_rows=np.arange(i * 10, i * 10 + 10)) for i in range(4)]
    layout = AttentionLayout(chunks, staging, causal=True, device=CPU, dtype=torch.float32, cache=cache)
    assert [(group.size, group.queries, group.keys, group.padded) for group in layout.groups] == [(4, 1, 10, False)]
    assert layout._in_order
    assert layout._mask(layout.groups[0], 0, None, 2) is None


def test_prefills_of_similar_length_share_a_call() -> None:
    staging = StagingBuffer(HostBuffers(CPU))
    cache = KeyValueCache(40, 1, (KV_HEADS, DIM), CPU, torch.float32)
    lengths = [1, 20, 18, 1, 21]
    chunks = [SequenceChunk([0] * n, cache_rows=np.arange(n)) for n in lengths]
    layout = AttentionLayout(chunks, staging, causal=True, device=CPU, dtype=torch.float32, cache=cache)
    assert [(group.size, group.queries) for group in layout.groups] == [(2, 1), (3, 21)]


# ---- through models


def _prefix(backbone: Backbone) -> list[tuple[Tensor, Tensor]]:
    """Three rows for each layer."""
    generator = torch.Generator().manual_seed(5)

    def fresh() -> Tensor:
        return torch.randn(3, *backbone.kv_shape, generator=generator)

    return [(fresh(), fresh()) for _ in range(backbone.layers)]


def _behind(pair: tuple[Tensor, Tensor]) -> Any:
    def act(keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([keys, pair[0]]), torch.cat([values, pair[1]])

    return act


@pytest.mark.parametrize("family", tiny.DECODERS)
@pytest.mark.parametrize("seed", [0, 1])
@torch.inference_mode()
def test_a_mixed_pass_through_a_model(family: str, seed: int, load_backbone: Any) -> None:
    """Some sequences with a prefix that the first layer does not see; half of them over the cache, in two passes."""
    backbone = load_backbone(family)
    random = np.random.default_rng(seed)
    lengths = [40, 3, 17, 1, 18, 30, 2, 25]
    texts = [random.integers(5, 90, n).tolist() for n in lengths]
    prefix = _prefix(backbone)
    actors = Actors(key_value={layer: _behind(pair) for layer, pair in enumerate(prefix)})
    left_out = frozenset({0})
    whole = []
    for i, ids in enumerate(texts):
        dressed = i % 3 != 0
        whole.append(
            SequenceChunk(
                ids,
                position_offset=3 if dressed else 0,
                left_out=left_out if dressed else frozenset(),
                batch_prefix=(0, 3) if dressed else (0, 0),
            )
        )
    alone = [backbone.encode(pack_chunks(backbone, None, [chunk]), actors) for chunk in whole]

    cache = KeyValueCache(3 + sum(lengths), backbone.layers, backbone.kv_shape, CPU, torch.float32)
    for layer, (keys, values) in enumerate(prefix):
        cache.write(layer, torch.arange(3), keys, values)
    slots = 3 + random.permutation(sum(lengths))
    rows = dict(enumerate(np.split(slots, np.cumsum(lengths)[:-1])))
    cached = {i for i in range(len(texts)) if i % 2 == 0}
    done = {i: int(random.integers(0, lengths[i])) for i in cached}

    def chunk(i: int, start: int, stop: int) -> SequenceChunk:
        before = np.arange(3) if whole[i].batch_prefix[1] else np.arange(0)
        return whole[i]._replace(
            ids=texts[i][start:stop],
            start=start,
            cache_rows=np.concatenate([before, rows[i][:stop]]),
            cached_prefix=len(before),
            batch_prefix=(0, 0),
        )

    first = [i for i in cached if done[i]]
    batch = pack_chunks(backbone, cache, [chunk(i, 0, done[i]) for i in first])
    states = backbone.encode(batch)
    for at, i in enumerate(first):
        (span,) = batch.sequence_rows(slice(at, at + 1))
        assert tiny.difference([states[span]], [alone[i][: done[i]]]) < tiny.CLOSE
    order = random.permutation(len(texts)).tolist()
    batch = pack_chunks(backbone, cache, [chunk(i, done[i], lengths[i]) if i in cached else whole[i] for i in order])
    states = backbone.encode(batch, actors)
    for at, i in enumerate(order):
        (span,) = batch.sequence_rows(slice(at, at + 1))
        assert tiny.difference([states[span]], [alone[i][done.get(i, 0) :]]) < tiny.CLOSE


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (SequenceChunk([], virtual=2), "no tokens"),
        (SequenceChunk([5], cached_prefix=2), "2 rows in the cache"),
        (SequenceChunk([5, 6], type_ids=[0]), "types of 1"),
        (SequenceChunk([5], cache_rows=np.arange(3), batch_prefix=(0, 2)), "in the batch"),
        (SequenceChunk([5, 6], cache_rows=np.arange(3), cached_prefix=2), "sees only 3"),
    ],
)
def test_a_chunk_that_fits_no_pass_is_refused(chunk: SequenceChunk, reason: str, load_backbone: Any) -> None:
    backbone = load_backbone("gpt2")
    cache = KeyValueCache(4, backbone.layers, backbone.kv_shape, CPU, torch.float32)
    with pytest.raises(ValueError, match=reason):
        pack_chunks(backbone, cache, [chunk])


def test_a_cached_chunk_needs_a_cache(load_backbone: Any) -> None:
    with pytest.raises(ValueError, match="the pass has none"):
        pack_chunks(load_backbone("gpt2"), None, [SequenceChunk([5], cache_rows=np.arange(1))])
