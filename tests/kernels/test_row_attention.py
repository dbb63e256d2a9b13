import numpy as np
import pytest
import torch
from manyhats.kernels.cpu.attention import CachedRowAttention
from torch import Tensor

ROWS = 300
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture
def attention(library):
    return CachedRowAttention(library)


def expected(q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """q (heads, dim), keys and values (rows, kv_heads, dim), in float64."""
    folded = q.shape[0] // keys.shape[1]
    k, v = (t.double().repeat_interleave(folded, 1) for t in (keys, values))
    weights = (torch.einsum("hd,nhd->hn", q.double(), k) * scaling).softmax(-1)
    return torch.einsum("hn,nhd->hd", weights, v)


@DTYPES
@torch.inference_mode()
@pytest.mark.parametrize(
    ("sequences", "kv_heads", "folded", "dim"), [(32, 3, 3, 64), (3, 2, 5, 37), (1, 1, 1, 8), (4, 2, 9, 80)]
)
def test_equals_attention_over_gathered_rows(attention, dtype, sequences, kv_heads, folded, dim):
    torch.manual_seed(0)
    keys, values = torch.randn(2, ROWS, kv_heads, dim).to(dtype)
    q = torch.randn(kv_heads * folded, sequences, dim).to(dtype).transpose(0, 1)  # as the model's own, by head
    new = torch.randn(2, sequences, kv_heads, dim).to(dtype).unbind(0)
    seen = 1 + np.arange(sequences) * 7 % 90
    bounds = np.concatenate([[0], np.cumsum(seen)])
    rows = np.concatenate([np.random.default_rng(i).permutation(ROWS - 40)[: n - 1] for i, n in enumerate(seen)])
    rows = np.insert(rows, np.cumsum(seen - 1), ROWS - 40 + np.arange(sequences))  # each sequence's own row
    first = np.minimum(np.arange(sequences) % 3, seen - 1)
    out = attention(q, new, (keys, values), rows, bounds, first, 0.2)
    for i in range(sequences):
        own = torch.from_numpy(rows[bounds[i] + first[i] : bounds[i + 1]])
        assert torch.equal(keys[own[-1]], new[0][i])
        assert torch.equal(values[own[-1]], new[1][i])
        wanted = expected(q[i], keys[own], values[own], 0.2)
        assert (out[i] - wanted).abs().max() < (1e-5 if dtype is torch.float32 else 2e-2)
    again = attention(q[-1:], None, (keys, values), rows[bounds[-2] :], bounds[-2:] - bounds[-2], first[-1:], 0.2)
    assert torch.equal(again[0], out[-1])  # whatever shares the call
    within = attention(q, None, (keys, values), rows, bounds, first, 0.2, 4)
    for i in range(sequences):
        own = torch.from_numpy(rows[max(bounds[i] + first[i], bounds[i + 1] - 4) : bounds[i + 1]])
        wanted = expected(q[i], keys[own], values[own], 0.2)
        assert (within[i] - wanted).abs().max() < (1e-5 if dtype is torch.float32 else 2e-2)


@torch.inference_mode()
def test_rows_outside_the_cache_are_an_error(attention):
    q, cache = torch.zeros(1, 2, 4), torch.zeros(2, 10, 1, 4).unbind(0)
    zero = np.zeros(1, dtype=np.int64)
    for rows in ([0, 10], [-1, 0]):
        with pytest.raises(RuntimeError, match="rows of the cache"):
            attention(q, None, cache, np.array(rows), np.array([0, 2]), zero, 1.0)
    with pytest.raises(RuntimeError, match="rows of the cache"):  # attends to nothing
        attention(q, None, cache, np.array([0, 1]), np.array([0, 2]), zero + 2, 1.0)
