"""Attention over a packed batch.

transformers' models fetch their attention by name. Under the name registered here they get a function that takes
the queries, keys and values of all tokens side by side, without padding, and lets every sequence attend to its own
tokens, and to the prefix rows that its segment's adapter brings.

Pads exist only inside this function: sequences of similar length are gathered into a few buckets, each one call of
`scaled_dot_product_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from manyhats.errors import UnsupportedAttention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manyhats.backbone.sites import SiteSwitch

PACKED_ATTENTION = "manyhats_packed"

# A bucket takes sequences up to this much longer than its shortest: a trade between pads and the number of calls.
_BUCKET_GROWTH = 1.25
_BUCKET_SLACK = 4


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Sequences of similar length. B sequences, Q query places, K key places each."""

    queries: Tensor  # (B*Q,) rows of the packed tokens; pads repeat the sequence's first token
    keys: Tensor  # (B*K,) rows of tokens and prefixes; pads repeat the sequence's first token
    shape: tuple[int, int, int]  # B, Q, K
    dtype: torch.dtype
    mask: Tensor | None  # (B, 1, 1 or Q, K), 0 or -inf; None where nothing is padded and nothing is causal
    prefixes: Tensor  # (B,) prefix rows of each sequence
    left_out: tuple[
        frozenset[int], ...
    ]  # (B,) layers at which a sequence does not see its prefix; () where there are none
    windowed: dict[int, Tensor | None] = field(default_factory=dict)  # the mask for layers that see a window alone
    partial: dict[tuple[bool, ...], Tensor] = field(default_factory=dict)  # by who does not see its prefix

    def mask_for(self, layer: int, window: int | None) -> Tensor | None:
        """The mask of a layer whose queries see keys less than `window` places away (all, where it is None)."""
        mask = self._within(window)
        without = tuple(layer in layers for layers in self.left_out)
        if not any(without):
            return mask
        if without not in self.partial:
            rows = self.prefixes * torch.tensor(without)
            hidden = (torch.arange(self.shape[2])[None] < rows[:, None])[:, None, None]
            own = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, float("-inf"))
            self.partial[without] = own.to(self.queries.device)
        own = self.partial[without]
        return own if mask is None else own + mask

    def _within(self, window: int | None) -> Tensor | None:
        _, q_len, k_len = self.shape
        if window is None or k_len <= window:
            return self.mask
        if window not in self.windowed:
            places = torch.arange(q_len)[None, :, None] + self.prefixes[:, None, None]
            far = (places - torch.arange(k_len)[None, None, :]).abs() >= window
            mask = torch.zeros(far.shape, dtype=self.dtype).masked_fill_(far, float("-inf")).unsqueeze(1)
            mask = mask.to(self.queries.device)
            self.windowed[window] = mask if self.mask is None else mask + self.mask
        return self.windowed[window]


class AttentionLayout:
    """Which token attends to which rows, for one packed batch; computed once and used by every layer.

    `lengths`: tokens of each sequence, in batch order. `prefixes`: for each sequence the rows (start, stop) among
    the batch's prefix rows that stand before its own tokens; (0, 0) where it has none. `left_out`: for each sequence
    the layers at which it does not see them.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]],
        *,
        left_out: Sequence[frozenset[int]] | None = None,
        causal: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        left_out = left_out or [frozenset()] * len(lengths)
        total = sum(lengths)
        starts = [0]
        for length in lengths[:-1]:
            starts.append(starts[-1] + length)
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], prefixes[i][1] - prefixes[i][0]))
        groups: list[list[int]] = []
        for i in order:
            reach = lengths[i] + prefixes[i][1] - prefixes[i][0]
            if groups:
                first = groups[-1][0]
                shortest = lengths[first] + prefixes[first][1] - prefixes[first][0]
                limit = shortest * _BUCKET_GROWTH + _BUCKET_SLACK
                if reach <= limit and lengths[i] <= lengths[first] * _BUCKET_GROWTH + _BUCKET_SLACK:
                    groups[-1].append(i)
                    continue
            groups.append([i])

        self.buckets: list[_Bucket] = []
        back = torch.empty(total, dtype=torch.long)
        offset = 0
        for group in groups:
            count = len(group)
            q_max = max(lengths[i] for i in group)
            k_max = max(lengths[i] + prefixes[i][1] - prefixes[i][0] for i in group)
            own_start = torch.tensor([starts[i] for i in group])
            own = torch.tensor([lengths[i] for i in group])
            pre_start = torch.tensor([prefixes[i][0] for i in group])
            pre = torch.tensor([prefixes[i][1] - prefixes[i][0] for i in group])

            q_place = torch.arange(q_max).expand(count, q_max)
            q_real = q_place < own[:, None]
            queries = torch.where(q_real, q_place + own_start[:, None], own_start[:, None])
            k_place = torch.arange(k_max).expand(count, k_max)
            in_prefix = k_place < pre[:, None]
            k_real = k_place < (pre + own)[:, None]
            keys = torch.where(
                in_prefix,
                total + pre_start[:, None] + k_place,
                torch.where(k_real, own_start[:, None] + k_place - pre[:, None], own_start[:, None]),
            )
            allowed = k_real[:, None, None, :]
            if causal:
                reach_of = q_place[:, :, None] + pre[:, None, None]  # the last key place that a query may see
                allowed = allowed & (k_place[:, None, :] <= reach_of)[:, None]
            mask = None
            if not bool(allowed.all()):
                mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf")).to(device)
            places = torch.arange(offset, offset + count * q_max).view(count, q_max)
            back[queries[q_real]] = places[q_real]
            offset += count * q_max
            self.buckets.append(
                _Bucket(
                    queries.reshape(-1).to(device),
                    keys.reshape(-1).to(device),
                    (count, q_max, k_max),
                    dtype,
                    mask,
                    pre,
                    tuple(left_out[i] for i in group) if any(left_out) else (),
                )
            )
        self._back = back.to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """q: (tokens, heads, dim); k, v: (tokens + prefix rows, kv_heads, dim). Returns (tokens, heads, dim).

        `window`: a query sees the keys that are less than so many places away; None for all.
        """
        heads, dim = q.shape[1], q.shape[2]
        kv_heads = k.shape[1]
        outs = []
        for bucket in self.buckets:
            count, q_len, k_len = bucket.shape
            qb = q.index_select(0, bucket.queries).view(count, q_len, heads, dim).transpose(1, 2)
            kb = k.index_select(0, bucket.keys).view(count, k_len, kv_heads, dim).transpose(1, 2)
            vb = v.index_select(0, bucket.keys).view(count, k_len, kv_heads, dim).transpose(1, 2)
            out = F.scaled_dot_product_attention(
                qb, kb, vb, attn_mask=bucket.mask_for(layer, window), scale=scaling, enable_gqa=heads != kv_heads
            )
            outs.append(out.transpose(1, 2).reshape(count * q_len, heads, dim))
        flat = outs[0] if len(outs) == 1 else torch.cat(outs)
        return flat.index_select(0, self._back)


class Layout(Protocol):
    """Who attends to whom in the pass under way; see `AttentionLayout` and `CachedLayout`."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """q, k, v: (tokens, ...). Returns (tokens, heads, dim)."""
        ...


class AttentionSite:
    """Stands at one attention layer; found by the registered function through the module it is called with.

    A module that several layers share (ALBERT) has one site, which takes their numbers in turn.
    """

    def __init__(self, module: nn.Module, switch: SiteSwitch) -> None:
        self.layers: list[int] = []
        self._turn = 0
        self._switch = switch
        self._layout: Layout | None = None
        self._hidden: Tensor | None = None
        module.manyhats_site = self  # type: ignore[assignment]
        module.register_forward_pre_hook(self._remember, with_kwargs=True)

    def begin(self, layout: Layout | None) -> None:
        """A new pass starts over a batch laid out so; None where it has ended."""
        self._layout = layout
        self._hidden = None
        self._turn = 0

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden = args[0] if args else kwargs["hidden_states"]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """query, key, value: (1, heads, tokens, dim). Returns (1, tokens, heads, dim)."""
        assert self._layout is not None, "packed attention outside a packed pass"
        assert self._hidden is not None
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        layer = self.layers[self._turn % len(self.layers)]
        self._turn += 1
        actor = self._switch.actors.key_value.get(layer)
        if actor is not None:
            k, v = actor(k, v, self._hidden[0])
        return self._layout.attend(layer, q, k, v, scaling, window).unsqueeze(0)


# What models hand over for other attention functions, and what is settled before attention is called.
_WITHOUT_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "deterministic"})


def refuse_arguments(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Raises UnsupportedAttention for the first argument that is there and may change the answer."""
    for name, value in given.items():
        if value is not None and name not in _WITHOUT_EFFECT:
            shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
            raise UnsupportedAttention(
                f"{type(module).__name__} of transformers hands its attention `{name}` ({shown}), which the packed "
                "pass does not follow"
            )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' models call: query (1, heads, tokens, dim) to (1, tokens, heads, dim).

    Raises UnsupportedAttention for an argument that would change the answer and is not followed here.
    """
    refuse_arguments(module, others | {"attention_mask": attention_mask, "dropout": dropout or None})
    site: AttentionSite = module.manyhats_site  # type: ignore[assignment]
    return site(query, key, value, scaling, sliding_window), None


def choose_attention_kernels(device: torch.device) -> None:
    """Leaves out cuDNN's attention on CUDA: it makes a plan for every shape that it has not seen.

    Each step of generation has shapes of its own, since keys grow with every token: a plan of about 3 ms for each layer
    made the steps five times as long on an H200. torch's flash and memory-efficient kernels need none.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def register() -> None:
    """Makes the packed attention known to transformers under `PACKED_ATTENTION`."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    # No mask is made for us: the layout holds who attends to whom.
    AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
