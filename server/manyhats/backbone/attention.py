"""Attention over a packed batch.

transformers' models fetch their attention by name. Under the name registered here they get a function that takes the
queries, keys and values of all tokens side by side, without padding; the layout of the pass (see `attention_layout`)
says which of them each sequence attends to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from manyhats.backbone.transformers_internals import LAYOUT_AS_MASK
from manyhats.errors import UnsupportedAttention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhats.backbone.sites import ActorContext

PACKED_ATTENTION = "manyhats_packed"


class PassLayout(Protocol):
    """Who attends to whom in one pass; see `AttentionLayout`."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """q: (tokens, heads, dim); k, v: (tokens + prefix rows, kv_heads, dim). Returns (tokens, heads, dim)."""
        ...


class AttentionSite:
    """The site of one attention layer; the registered function finds it by the module it is called with.

    A module that several layers share (ALBERT) has one site, which counts the layers call by call.
    """

    def __init__(self, module: nn.Module, context: ActorContext) -> None:
        self.layers: list[int] = []
        self._calls = 0
        self._context = context
        self._layout: PassLayout | None = None
        self._hidden: Tensor | None = None
        module.manyhats_site = self  # type: ignore[assignment]
        module.register_forward_pre_hook(self._remember, with_kwargs=True)

    def begin(self, layout: PassLayout | None) -> None:
        """Starts a pass with this layout; None: the pass has ended."""
        self._layout = layout
        self._hidden = None
        self._calls = 0

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden = args[0] if args else kwargs["hidden_states"]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """query, key, value: (1, heads, tokens, dim). Returns (1, tokens, heads, dim)."""
        assert self._hidden is not None
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        return self.rows(q, k, v, self._hidden[0], scaling, window).unsqueeze(0)

    def rows(
        self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """The same for q, k, v (tokens, heads, dim) and the layer's input `hidden` (tokens, width)."""
        assert self._layout is not None, "packed attention outside a packed pass"
        layer = self.layers[self._calls % len(self.layers)]
        self._calls += 1
        actor = self._context.actors.key_value.get(layer)
        if actor is not None:
            k, v = actor(k, v, hidden)
        return self._layout.attend(layer, q, k, v, scaling, window)


# Arguments for other attention functions, and those that have had their effect before attention is called.
_WITHOUT_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "deterministic"})


def reject_arguments(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Raises UnsupportedAttention for the first argument that is set and may change the output."""
    for name, value in given.items():
        if value is not None and value is not LAYOUT_AS_MASK and name not in _WITHOUT_EFFECT:
            described = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
            raise UnsupportedAttention(
                f"{type(module).__name__} of transformers hands its attention `{name}` ({described}), which the packed "
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

    Raises UnsupportedAttention for an argument that would change the output and is not supported.
    """
    reject_arguments(module, others | {"attention_mask": attention_mask, "dropout": dropout or None})
    site: AttentionSite = module.manyhats_site  # type: ignore[assignment]
    return site(query, key, value, scaling, sliding_window), None


def choose_attention_kernels(device: torch.device) -> None:
    """Disables cuDNN's attention on CUDA, which makes a plan for every new shape.

    Each step of generation has shapes of its own, since keys grow with every token: a plan of about 3 ms for each layer
    made the steps five times as long on an H200. torch's flash and memory-efficient kernels need none.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def register() -> None:
    """Makes the packed attention known to transformers under `PACKED_ATTENTION`."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    # No masks from transformers: the layout has its own.
    AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
