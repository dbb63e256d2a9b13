"""Sites: the named points of a backbone where a method may act.

A site wraps one module of the unmodified transformers model by replacing that *instance's* `forward`. Without an actor
it computes what the module always does. All that the backbone knows of adapters is which actors are at its sites
(`Actors`).

Names are module paths of the bare model (`encoder.layer.0.attention.self.query`, `embeddings.word_embeddings`) for
linear layers, embeddings and norms; `layers.<i>.attention` / `layers.<i>.ffn` after a sub-layer;
`embedded` before the first block and `last` after the last one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Conv1D

from manyhats.backbone.prepacked_weight import PrepackedWeight
from manyhats.backbone.quantized_weight import is_quantized

EMBEDDED = "embedded"
LAST = "last"
LM_HEAD = "lm_head"  # the name of the language-model head's linear site


class LinearActor(Protocol):
    """Computes a linear layer's output for every row of the batch. `x`: (rows, in); returns (rows, out)."""

    def __call__(self, x: Tensor, site: LinearSite) -> Tensor: ...

    def product(self, x: Tensor, site: LinearSite) -> Tensor:
        """What `change` changes: the backbone's own output for x, with what replaces it; (rows, in) to (rows, out)."""
        ...

    @property
    def keeps_product(self) -> bool:
        """Whether it only changes the backbone's own output, with `change`."""
        ...

    def change(self, x: Tensor, y: Tensor) -> None:
        """Changes the backbone's own output y (rows, out) for x, in place. Rows of y are contiguous."""
        ...


class JoinedActor(Protocol):
    """Changes the outputs of several linear layers that read the same rows."""

    def __call__(self, x: Tensor, ys: Sequence[Tensor]) -> None:
        """What each layer's actor does with `change`. `x`: (rows, in); `ys`: of each layer, (rows, out)."""
        ...


class SharedInput(Protocol):
    """Some linear layers that read the same rows; see `backbone.joined_linear`."""

    def output(self, site: LinearSite, x: Tensor) -> Tensor | None:
        """The output (rows, out) of one of them for x (..., in); None where it computes its output by itself."""
        ...


class EmbeddingActor(Protocol):
    """Changes an embedding's output. `ids`: (rows,); `y`: (rows, dim), what the backbone's table gives."""

    def __call__(self, ids: Tensor, y: Tensor) -> Tensor: ...


class NormActor(Protocol):
    """Changes the output of the norm `site`. `x`, `y`: (rows, ..., dim), before and after the backbone's own."""

    def __call__(self, x: Tensor, y: Tensor, site: NormSite) -> Tensor: ...


class ResidualActor(Protocol):
    """Joins a sub-layer's output `f` with its residual input `x`, both (rows, hidden); returns (rows, hidden).

    `norm` is the block's own layer norm where it follows the sum (post-norm blocks), else None.
    """

    def __call__(self, f: Tensor, x: Tensor, norm: NormSite | None) -> Tensor: ...


class KeyValueActor(Protocol):
    """Appends rows that sequences may attend to besides their own tokens.

    `keys`, `values`: (tokens, kv_heads, head_dim); `hidden`: (tokens, width), the attention layer's input. Returns
    both with further rows appended; the attention layout says which sequence attends to which of them.
    """

    def __call__(self, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]: ...


class StatesActor(Protocol):
    """Changes the residual stream as a whole. `states`: (rows, hidden); returns (rows, hidden)."""

    def __call__(self, states: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Actors:
    """The actors of one forward pass, by site name. `start` is called when the pass begins, `stop` when it has ended or
    failed."""

    linear: Mapping[str, LinearActor] = field(default_factory=dict)
    joined: Mapping[tuple[str, ...], JoinedActor] = field(default_factory=dict)  # by the names of `Backbone.shared`
    embedding: Mapping[str, EmbeddingActor] = field(default_factory=dict)
    norm: Mapping[str, NormActor] = field(default_factory=dict)
    residual: Mapping[str, ResidualActor] = field(default_factory=dict)
    key_value: Mapping[int, KeyValueActor] = field(default_factory=dict)  # by layer
    states: Mapping[str, StatesActor] = field(default_factory=dict)  # `embedded`, `last`
    start: Callable[[], None] = lambda: None
    stop: Callable[[], None] = lambda: None


class ActorContext:
    """The actors of the current pass, read by all sites of a backbone. `kept`: see `Backbone.kept`."""

    def __init__(self) -> None:
        self.actors = Actors()
        self.kept: dict[Any, Any] = {}


class ModuleSite:
    """Wraps one module with parameters."""

    def __init__(self, name: str, module: nn.Module, context: ActorContext) -> None:
        self.name = name
        self.module: Any = module
        self._context = context

    def parameter(self, leaf: str) -> Tensor | None:
        """The backbone's parameter of that name in the canonical layout; None where there is none."""
        return dict(self.module.named_parameters(recurse=False)).get(leaf)

    def parameter_names(self) -> list[str]:
        """The names of the backbone's parameters."""
        return [name for name, _ in self.module.named_parameters(recurse=False)]

    def to_canonical(self, leaf: str, tensor: Tensor) -> Tensor:
        """Converts a parameter from the module's layout to the canonical one: a linear weight is (out, in)."""
        return tensor


class LinearSite(ModuleSite):
    """A linear layer, or GPT-2's Conv1D, whose weight is transposed."""

    def __init__(self, name: str, module: nn.Module, context: ActorContext) -> None:
        super().__init__(name, module, context)
        self.transposed = isinstance(module, Conv1D)  # its own weight is (in, out)
        self.kept = context.kept  # of the whole backbone
        self.prepacked: PrepackedWeight | None = None  # a copy of its weight in the CPU's layout
        self.shared: SharedInput | None = None  # with those that are called after it, with the same input
        self.quantized = is_quantized(module.weight)
        module.forward = self._forward

    def parameter(self, leaf: str) -> Tensor | None:
        if self.quantized and leaf == "weight":
            return self.weight
        own = super().parameter(leaf)
        return None if own is None else self.to_canonical(leaf, own)

    def to_canonical(self, leaf: str, tensor: Tensor) -> Tensor:
        return tensor.T if self.transposed and leaf == "weight" else tensor

    @property
    def weight(self) -> Tensor:
        """(out, in), a view of the backbone's weight; where that is quantised, what it stands for, made anew."""
        if self.quantized:
            dense: Tensor = self.module.weight.dequantize()
            return dense
        return self.to_canonical("weight", self.module.weight)

    @property
    def bias(self) -> Tensor | None:
        """(out,)."""
        bias: Tensor | None = self.module.bias
        return bias

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.module.weight.shape
        return (columns, rows) if self.transposed else (rows, columns)

    def _forward(self, x: Tensor) -> Tensor:
        y = None if self.shared is None else self.shared.output(self, x)
        if y is None:
            y = self.rows(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])

    @property
    def actor(self) -> LinearActor | None:
        """Its actor in the current pass."""
        return self._context.actors.linear.get(self.name)

    def joined_actor(self, names: tuple[str, ...]) -> JoinedActor | None:
        """The actor of some layers, of which it is one, in the current pass."""
        return self._context.actors.joined.get(names)

    def rows(self, x: Tensor) -> Tensor:
        """The layer with its actor: (rows, in) to (rows, out)."""
        actor = self.actor
        return self.product(x) if actor is None else actor(x, self)

    def product(self, x: Tensor) -> Tensor:
        """The layer without actors: (rows, in) to (rows, out)."""
        if self.prepacked is not None and len(x) >= self.prepacked.min_rows and not torch.is_grad_enabled():
            return self.prepacked(x, self.bias)
        return F.linear(x, self.module.weight if self.quantized else self.weight, self.bias)

    def product_into(self, x: Tensor, y: Tensor) -> None:
        """Writes the layer's product of x (rows, in) to y (rows, out), without gradients. torch's product writes there
        itself, which spares a tensor as large as y."""
        packed = self.quantized or (self.prepacked is not None and len(x) >= self.prepacked.min_rows)
        if packed or self.bias is None or x.dtype is not self.weight.dtype:
            y.copy_(self.product(x))
        else:
            torch.addmm(self.bias, x, self.weight.T, out=y)


class EmbeddingSite(ModuleSite):
    """An embedding. Has actors only for lookups with one index for each row of the batch."""

    def __init__(self, name: str, module: nn.Embedding, context: ActorContext) -> None:
        super().__init__(name, module, context)
        self._plain = module.forward
        self._offset: int | None = getattr(module, "offset", None)  # OPT's positions have an offset
        module.forward = self._forward  # type: ignore[method-assign, assignment]

    def _forward(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self._plain(ids, *args, **kwargs)
        actor = self._context.actors.embedding.get(self.name)
        if actor is None:
            return y
        if self._offset is not None:  # OPT passes the mask first, and the positions by name
            ids = kwargs["position_ids"] + self._offset
        return actor(ids.reshape(-1), y.reshape(-1, y.shape[-1])).view(y.shape)


class NormSite(ModuleSite):
    """A layer norm or RMS norm. `plain`: the backbone's forward, without actors."""

    def __init__(self, name: str, module: nn.Module, context: ActorContext) -> None:
        super().__init__(name, module, context)
        self.plain: Callable[..., Tensor] = module.forward
        self._identity: nn.Module | None = None  # the same with gain 1 and offset 0
        module.forward = self._forward

    def _forward(self, x: Tensor) -> Tensor:
        y = self.plain(x)
        actor = self._context.actors.norm.get(self.name)
        if actor is None:
            return y
        if x.dim() == 2:
            return actor(x, y, self)
        return actor(x.flatten(0, 1), y.flatten(0, 1), self).view(y.shape)  # (batch, tokens, ..., dim)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm with its actor, over all rows of the batch."""
        return self._forward(x)

    def normalised(self, x: Tensor) -> Tensor:
        """The norm without its gain and offset, in float32: (..., dim) to (..., dim)."""
        if self._identity is None:
            with torch.inference_mode(False):  # training uses it too
                copied: nn.Module = copy.deepcopy(self.module, {id(self): self})
                del copied.forward  # back to its class's method
                for name, own in self.module.named_parameters(recurse=False):
                    neutral = torch.full_like(own, name == "weight", dtype=torch.float32)
                    copied.register_parameter(name, nn.Parameter(neutral, requires_grad=False))
            self._identity = copied
        normed: Tensor = self._identity(x.float())
        return normed


class ResidualSite:
    """Where a sub-layer's output is added to the residual stream: after attention, or after feed-forward.

    A block that several layers share (ALBERT) has one site, which counts the layers call by call.
    """

    def __init__(self, context: ActorContext) -> None:
        self.names: list[str] = []
        self._calls = 0
        self._context = context

    def begin(self) -> None:
        """Starts a pass."""
        self._calls = 0

    def join(self, f: Tensor, x: Tensor, norm: nn.Module | NormSite | None = None) -> Tensor:
        """`norm(f + x)`, or the actor's output. `f`, `x`: (..., hidden)."""
        name = self.names[self._calls % len(self.names)]
        self._calls += 1
        actor = self._context.actors.residual.get(name)
        if actor is None:
            return f + x if norm is None else norm(f + x)
        hidden = f.shape[-1]
        site = None if norm is None else _site_of_norm(norm, self._context)
        return actor(f.reshape(-1, hidden), x.reshape(-1, hidden), site).view(f.shape)


def site_of(module: nn.Module) -> Any:
    """The site of a linear layer, embedding or norm that has one; else the module itself."""
    forward: Any = module.forward
    return forward.__self__


def _site_of_norm(norm: nn.Module | NormSite, context: ActorContext) -> NormSite:
    if isinstance(norm, NormSite):
        return norm
    owner = site_of(norm)
    return owner if isinstance(owner, NormSite) else NormSite("", norm, context)  # it has no parameters, hence no name


class StatesSite:
    """The residual stream before the first block, or after the last one."""

    def __init__(self, name: str, context: ActorContext) -> None:
        self.name = name
        self._context = context

    def __call__(self, states: Tensor) -> Tensor:
        """`states`, or the actor's output. (..., hidden)."""
        actor = self._context.actors.states.get(self.name)
        if actor is None:
            return states
        return actor(states.reshape(-1, states.shape[-1])).view(states.shape)


@dataclass(frozen=True, slots=True)
class ModuleSites:
    """The sites of single modules, by name."""

    linear: dict[str, LinearSite]
    embedding: dict[str, EmbeddingSite]
    norm: dict[str, NormSite]


def module_sites(modules: Mapping[str, nn.Module], context: ActorContext) -> ModuleSites:
    """A site for every linear layer, embedding and norm among `modules`."""
    sites = ModuleSites({}, {}, {})
    for name, module in modules.items():
        if isinstance(module, (nn.Linear, Conv1D)):
            sites.linear[name] = LinearSite(name, module, context)
        elif isinstance(module, nn.Embedding):
            sites.embedding[name] = EmbeddingSite(name, module, context)
        elif _is_norm(module):
            sites.norm[name] = NormSite(name, module, context)
    return sites


def _is_norm(module: nn.Module) -> bool:
    """LayerNorm, and RMS norms, of which every family has its own class."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and isinstance(weight, Tensor) and weight.dim() == 1
