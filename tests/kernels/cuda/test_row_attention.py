"""Attention of steps of generation in Triton."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backbone.test_mixed_attention import Case, cases
from tests.backbone.test_mixed_attention import check as check_layout
from tests.kernels.test_row_attention import expected

ROWS = 120
SIZES = [(6, 3, 3, 64), (3, 2, 5, 37), (1, 1, 1, 8), (4, 2, 9, 80)]  # sequences, heads of keys, folded, dim


@pytest.fixture(params=[1, 2, 8], ids=lambda splits: f"{splits} splits")
def splits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Into how many parts the rows of a sequence are divided: more than some sequences have blocks of rows, or rows."""
    from manyhats.kernels.cuda import row_attention

    monkeypatch.setattr(row_attention, "splits_of", lambda programs, cache_rows: request.param)
    return int(request.param)


@pytest.fixture
def attention(kernels: Any, splits: int) -> Any:
    return kernels.row_attention


def test_few_sequences_are_divided_and_many_are_not(device: torch.device) -> None:
    from manyhats.kernels.cuda.row_attention import splits_of

    assert [splits_of(programs, 1 << 20) for programs in (1, 8, 20, 64, 129, 5000)] == [16, 16, 8, 4, 1, 1]
    assert [splits_of(1, rows) for rows in (0, 127, 300, 5000)] == [1, 1, 2, 16]


@torch.inference_mode()
def test_a_launch_that_is_replayed_attends_to_other_rows(
    attention: Any, splits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a captured graph does it: with the arguments of then, whatever lengths the sequences have by now."""
    launches: list[tuple[Any, ...]] = []
    plain = attention._launch

    def recorded(program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        launches.append((program, grid, arguments, constants))
        plain(program, grid, *arguments, **constants)

    monkeypatch.setattr(attention, "_launch", recorded)
    keys, values = torch.randn(2, ROWS, 2, 8).to(device)
    q = torch.randn(3, 4, 8).to(device)
    rows, bounds, first = indices(np.arange(ROWS) * 7 % ROWS, [0, 1, 4, 90], [0] * 3, device=device)
    out = attention(q, None, (keys, values), rows, bounds, first, 0.5)
    assert len(launches) == (1 if splits == 1 else 2)
    bounds.copy_(torch.tensor([0, 80, 83, 120]))
    out.fill_(float("nan"))
    for program, grid, arguments, constants in launches:
        plain(program, grid, *arguments, **constants)
    for i, (start, stop) in enumerate(((0, 80), (80, 83), (83, 120))):
        own = rows[start:stop]
        assert (out[i].cpu() - expected(q[i].cpu(), keys[own].cpu(), values[own].cpu(), 0.5)).abs().max() < 1e-5


def indices(*arrays: Any, device: torch.device) -> list[torch.Tensor]:
    return [torch.as_tensor(array, dtype=torch.int64, device=device) for array in arrays]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_equals_attention_over_gathered_rows(
    attention: Any, device: torch.device, dtype: torch.dtype, size: tuple[int, int, int, int]
) -> None:
    sequences, kv_heads, folded, dim = size
    torch.manual_seed(0)
    keys, values = torch.randn(2, ROWS, kv_heads, dim).to(device, dtype)
    q = torch.randn(kv_heads * folded, sequences, dim).to(device, dtype).transpose(0, 1)  # as the model's own, by head
    new = torch.randn(2, sequences, kv_heads, dim).to(device, dtype).unbind(0)
    seen = 1 + np.arange(sequences) * 17 % 70
    bounds = np.concatenate([[0], np.cumsum(seen)])
    shared = np.random.default_rng(0).permutation(ROWS - sequences)
    rows = np.concatenate([np.append(shared[: n - 1], ROWS - sequences + i) for i, n in enumerate(seen)])
    first = np.minimum(np.arange(sequences) % 3, seen - 1)
    keys[ROWS - sequences :] = float("nan")  # nothing has been written there
    values[ROWS - sequences :] = float("nan")
    given = indices(rows, bounds, first, device=device)
    out = attention(q, new, (keys, values), *given, 0.2)
    for i in range(sequences):
        own = given[0][bounds[i] + first[i] : bounds[i + 1]]
        assert torch.equal(keys[own[-1]], new[0][i])
        assert torch.equal(values[own[-1]], new[1][i])
        wanted = expected(q[i].cpu(), keys[own].cpu(), values[own].cpu(), 0.2)
        assert (out[i].cpu() - wanted).abs().max() < (1e-5 if dtype is torch.float32 else 2e-2)
    again = attention(q, None, (keys, values), *given, 0.2)
    torch.testing.assert_close(again, out, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


@torch.inference_mode()
def test_a_window_leaves_out_what_is_before_it(attention: Any, device: torch.device) -> None:
    keys, values = torch.randn(2, ROWS, 2, 8).to(device)
    q = torch.randn(3, 4, 8).to(device)
    bounds, first = [0, 1, 41, 120], [0, 0, 70]
    rows, *others = indices(np.arange(ROWS) * 7 % ROWS, bounds, first, device=device)
    for window in (1, 5, 30, 500):
        out = attention(q, None, (keys, values), rows, *others, 0.5, window)
        for i, stop in enumerate(bounds[1:]):
            own = rows[max(bounds[i] + first[i], stop - window) : stop]
            assert (out[i].cpu() - expected(q[i].cpu(), keys[own].cpu(), values[own].cpu(), 0.5)).abs().max() < 1e-5


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, for the interpreter
def test_what_is_wrong_with_a_sequence_makes_its_own_output_no_number(attention: Any, device: torch.device) -> None:
    q, new = torch.randn(3, 2, 4, device=device), torch.randn(2, 3, 1, 4, device=device).unbind(0)
    cache = torch.randn(2, 10, 1, 4, device=device).unbind(0)
    before = cache[0].clone()

    def failing(rows: list[int], first: int, added: Any) -> list[bool]:
        given = indices([0, 7, *rows, 1, 9], [0, 2, 4, 6], [0, first, 0], device=device)
        return attention(q, added, cache, *given, 1.0).isnan().flatten(1).any(1).tolist()

    for added in (None, new):
        for rows in ([2, 10], [2, -1]):  # outside the cache
            assert failing(rows, 0, added) == [False, True, False]
        assert failing([2, 8], 2, added) == [False, True, False]  # attends to nothing
        assert failing([2, 8], 0, added) == [False, False, False]
    changed = (cache[0] != before).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == [7, 8, 9]


@settings(max_examples=25, deadline=None)
@given(some=st.lists(cases, min_size=1, max_size=5), window=st.sampled_from([None, 3, 8]), seed=st.integers(0, 999))
def test_each_gets_what_it_gets_alone(device: torch.device, some: list[Case], window: int | None, seed: int) -> None:
    """In passes with whole sequences, prompts and prefixes, by the layout's own staging of indices."""
    from manyhats.kernels.cuda import row_attention
    from manyhats.kernels.cuda.row_attention import CachedRowAttention

    if device.type != "cpu":
        pytest.skip("the layout's test is for the CPU")
    with mock.patch.object(row_attention, "splits_of", return_value=1 << seed % 3), torch.inference_mode():
        check_layout(some, causal=True, window=window, seed=seed, attention=CachedRowAttention())
