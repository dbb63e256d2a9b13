"""Attention without pads, with a `varlen_attn` in plain torch: where it is used, and how it proves itself."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import SequenceChunk, varlen_attention, varlen_check
from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.backbone.varlen_attention import VarlenAttention, missing
from manyhats.backbone.varlen_check import choose_varlen_attention, fault
from manyhats.backbone.varlen_layout import VarlenLayout, attention_layout
from manyhats.kernels.registry import choose
from torch import Tensor

from tests import tiny
from tests.backbone.test_mixed_attention import Case, cases, check

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """As torch documents it: a window (left, right) around each query, whose last is the last key's; -1: no limit."""
    assert cu_seq_q.dtype is cu_seq_k.dtype is torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert all(t.stride(-1) == 1 for t in (query, key, value))
    assert int(cu_seq_q[-1]) == len(query)
    assert int(cu_seq_k[-1]) == len(key) == len(value)
    assert (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max())) == (max_q, max_k)
    folded = query.shape[1] // key.shape[1]
    outs = []
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].float()
        k, v = (
            t[cu_seq_k[i] : cu_seq_k[i + 1]].float().repeat_interleave(folded, 1).transpose(0, 1) for t in (key, value)
        )
        apart = (
            torch.arange(len(q))[:, None] + k.shape[1] - len(q) - torch.arange(k.shape[1])
        )  # how far behind a key is
        seen = torch.ones_like(apart, dtype=torch.bool)
        if window_size[0] >= 0:
            seen &= apart <= window_size[0]
        if window_size[1] >= 0:
            seen &= -apart <= window_size[1]
        scores = q.transpose(0, 1) @ k.transpose(1, 2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        outs.append((scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outs).to(query.dtype)


def top_left(*arguments: Any, window_size: tuple[int, int], **others: Any) -> Tensor:
    """Wrong: a sequence's first query is its first key's."""
    query, key, value, cu_seq_q, cu_seq_k, max_q, _ = arguments
    kept = torch.cat([torch.arange(int(b), int(b) + int(n)) for b, n in zip(cu_seq_k, cu_seq_q.diff(), strict=False)])
    return varlen_attn(
        query, key[kept], value[kept], cu_seq_q, cu_seq_q, max_q, max_q, window_size=window_size, **others
    )


VARLEN = VarlenAttention(varlen_attn)


@settings(max_examples=60, deadline=None)
@given(
    some=st.lists(cases, min_size=1, max_size=7),
    window=st.sampled_from([None, 1, 3, 8]),
    seed=st.integers(0, 999),
    rows_read=st.booleans(),
)
@torch.inference_mode()
def test_each_gets_what_it_gets_alone(some: list[Case], window: int | None, seed: int, rows_read: bool) -> None:
    attention = choose(CPU).row_attention if rows_read else None
    shown = [case._replace(left_out=False) for case in some]
    check(shown, causal=True, window=window, seed=seed, attention=attention, varlen=VARLEN)
    check(some, causal=True, window=window, seed=seed, attention=attention, varlen=VARLEN)


@settings(max_examples=30, deadline=None)
@given(
    some=st.lists(cases.map(lambda case: case._replace(cached=False)), min_size=1, max_size=7),
    window=st.sampled_from([None, 3, 8]),
    seed=st.integers(0, 999),
)
@torch.inference_mode()
def test_so_do_whole_ones_that_see_both_ways(some: list[Case], window: int | None, seed: int) -> None:
    check([case._replace(left_out=False) for case in some], causal=False, window=window, seed=seed, varlen=VARLEN)


def layout_of(chunks: list[SequenceChunk], cache: KeyValueCache | None = None) -> AttentionLayout | VarlenLayout:
    staging = StagingBuffer(HostBuffers(CPU))
    made = attention_layout(chunks, staging, causal=True, device=CPU, dtype=torch.float32, cache=cache, varlen=VARLEN)
    staging.commit()
    return made


def test_where_it_takes_the_place_of_the_groups() -> None:
    cache = KeyValueCache(40, 1, (2, 4), CPU, torch.float32, choose(CPU).row_attention)
    whole, decode = SequenceChunk([0] * 5), SequenceChunk([0], 9, cache_rows=np.arange(10))
    prefixed = SequenceChunk([0] * 5, batch_prefix=(0, 3))
    with torch.inference_mode():
        for chunks in ([whole], [whole, decode], [prefixed._replace(batch_prefix=(0, 0), left_out=frozenset({0}))]):
            assert isinstance(layout_of(chunks, cache), VarlenLayout)
        assert isinstance(layout_of([decode], cache), AttentionLayout)  # one call without it
        assert isinstance(layout_of([whole, prefixed._replace(left_out=frozenset({0}))], cache), AttentionLayout)
    assert isinstance(layout_of([whole], cache), AttentionLayout)  # with gradients


@torch.inference_mode()
def test_whole_sequences_are_neither_gathered_nor_padded() -> None:
    calls: list[Any] = []

    def noted(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        calls.append((q, k, v))
        return q

    staging = StagingBuffer(HostBuffers(CPU))
    layout = VarlenLayout([SequenceChunk([0] * n) for n in (9, 30, 2)], staging, VarlenAttention(noted), causal=False)
    staging.commit()
    q, k, v = (torch.randn(41, heads, 8) for heads in (4, 2, 2))
    assert layout.attend(0, q, k, v, None, None) is not None
    ((*given,),) = calls
    assert [t.data_ptr() for t in given] == [q.data_ptr(), k.data_ptr(), v.data_ptr()]


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert"])
@torch.inference_mode()
def test_through_a_model(family: str, base_folder: Any) -> None:
    backbone, plain = tiny.load(base_folder(family)), tiny.load(base_folder(family))
    backbone.varlen_attention = VARLEN
    texts = tiny.texts([3, 40, 1, 9])
    for method in ("lora", "prefix"):
        adapter = tiny.adapter(plain, method, 1)
        assert tiny.difference(tiny.ask(backbone, adapter, texts), tiny.ask(plain, adapter, texts)) < tiny.CLOSE


# ---- where it can be used


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One with all that is needed, until a test takes some of it away."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(varlen_attention, "torch_function", lambda: varlen_attn)
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((CUDA, torch.bfloat16, 32, (8, 128)), None),
        ((CUDA, torch.float16, 12, (12, 64)), None),
        ((CPU, torch.bfloat16, 32, (8, 128)), "for CUDA devices"),
        ((CUDA, torch.float32, 32, (8, 128)), "does not compute in torch.float32"),
        ((CUDA, torch.bfloat16, 32, (8, 36)), "the model's are of 36"),
        ((CUDA, torch.bfloat16, 32, (8, 264)), "the model's are of 264"),
        ((CUDA, torch.bfloat16, 9, (2, 64)), "9 query heads do not share 2"),
    ],
)
def test_its_conditions(machine: pytest.MonkeyPatch, given: Any, reason: str | None) -> None:
    found = missing(*given)
    assert found is None if reason is None else reason in (found or "")


def test_what_is_missing_is_told(machine: pytest.MonkeyPatch) -> None:
    given = CUDA, torch.bfloat16, 32, (8, 128)
    for older in (None, lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False: query):
        machine.setattr(varlen_attention, "torch_function", lambda older=older: older)
        assert "has none with the arguments scale, window_size" in (missing(*given) or "")
    machine.setattr(varlen_attention, "torch_function", lambda: varlen_attn)
    machine.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert missing(*given) == "the device is too old"


def test_torch_has_it_with_the_arguments_that_are_needed() -> None:
    function = varlen_attention.torch_function()
    assert function is not None
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)),
    ):
        assert missing(CUDA, torch.bfloat16, 32, (8, 128)) is None


# ---- how it proves itself


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_that_is_right_is_found_right(causal: bool, dtype: torch.dtype) -> None:
    assert fault(VARLEN, CPU, dtype, 4, (2, 16), causal=causal) is None


def _without_windows(*arguments: Any, window_size: tuple[int, int], **others: Any) -> Tensor:
    return varlen_attn(*arguments, window_size=(-1, window_size[1]), **others)


def _fails(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs\nand more")


WRONG = {
    "the first query at the first key": (top_left, "it differs by"),
    "without windows": (_without_windows, "for whole sequences and a window of 6"),
    "not a number": (lambda q, *_, **__: q * float("nan"), "it differs by nan for whole sequences"),
    "other heads": (lambda q, *a, **o: varlen_attn(q.flip(1), *a, **o), "it differs by"),
    "failing": (_fails, "it fails: RuntimeError: FlashAttention only supports Ampere GPUs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_that_is_wrong_is_found(name: str) -> None:
    function, reason = WRONG[name]
    found = fault(VarlenAttention(function), CPU, torch.float32, 4, (2, 16), causal=True)
    assert reason in (found or "")
    assert "and more" not in (found or "")


def test_one_that_is_wrong_is_not_used_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(varlen_check, "missing", lambda *_: None)
    given = CPU, torch.float32, 4, (2, 16)
    for function, used in ((varlen_attn, True), (top_left, False)):
        monkeypatch.setattr(varlen_check, "torch_function", lambda function=function: function)
        with caplog.at_level(logging.WARNING):
            assert (choose_varlen_attention(*given, causal=True) is not None) == used
        assert ("attention without pads is not used, which costs time, not answers: it differs" in caplog.text) != used
    assert len(caplog.records) == 1


def test_on_other_devices_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_varlen_attention(CPU, torch.float32, 4, (2, 16), causal=True) is None
    assert not caplog.records


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(32, (8, 128)), (12, (12, 64))], ids=str)
def test_torchs_own_is_right(causal: bool, dtype: torch.dtype, shape: Any) -> None:
    """Torch may have none, or one for other cards; what it has must be right."""
    lacking = missing(CUDA, dtype, *shape)
    if lacking is not None:
        pytest.skip(lacking)
    assert choose_varlen_attention(CUDA, dtype, *shape, causal=causal) is not None


# ---- the attention in groups


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("folded", [1, 2])
def test_torchs_grouped_attention_is_never_asked_for_off_the_cpu(gradients: bool, folded: int) -> None:
    """With a mask it is slow on CUDA."""
    staging = StagingBuffer(HostBuffers(CPU))
    chunks = [SequenceChunk([0] * n) for n in (3, 4, 3, 1)]
    layout = AttentionLayout(chunks, staging, causal=True, device=CPU, dtype=torch.float32)
    staging.commit()
    q, k, v = (torch.randn(11, heads, 4) for heads in (2 * folded, 2, 2))
    with torch.set_grad_enabled(gradients):
        expected = layout.attend(0, q, k, v, None, None)
        layout._on_cpu = False
        plain, asked = torch.nn.functional.scaled_dot_product_attention, []

        def noted(*arguments: Any, **named: Any) -> Tensor:
            asked.append(named.get("enable_gqa", False))
            return plain(*arguments, **named)

        with mock.patch("torch.nn.functional.scaled_dot_product_attention", noted):
            found = layout.attend(0, q, k, v, None, None)
    assert asked
    assert not any(asked)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
