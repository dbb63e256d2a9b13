"""Sites: the named points of a backbone where a method may act.

A site stands in front of one module of the unmodified transformers model by replacing that *instance's* `forward`.
While nothing acts there, the site computes what the module always computed. The backbone knows no more about
adapters than this: "something acts at this site" (`Actors`).

Names are module paths of the bare model (`encoder.layer.0.attention.self.query`) for linear layers, and
`layers.<i>.attention` / `layers.<i>.ffn` for the places after a sub-layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class LinearActor(Protocol):
    """Computes a linear layer's output for every row of the batch. `x`: (rows, in); returns (rows, out)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...


class ResidualActor(Protocol):
    """Joins a sub-layer's output `f` with its residual input `x`, both (rows, hidden); returns (rows, hidden).

    `norm` is the block's own layer norm where it follows the sum (post-norm blocks), else the identity.
    """

    def __call__(self, f: Tensor, x: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor: ...


class KeyValueActor(Protocol):
    """Adds rows that sequences may attend to besides their own tokens.

    `keys`, `values`: (tokens, kv_heads, head_dim). Returns both with the further rows behind; the batch's
    attention layout says which sequence sees which of them.
    """

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Actors:
    """What acts during one forward pass, by site name."""

    linear: Mapping[str, LinearActor] = field(default_factory=dict)
    residual: Mapping[str, ResidualActor] = field(default_factory=dict)
    key_value: Mapping[int, KeyValueActor] = field(default_factory=dict)  # by layer


class SiteSwitch:
    """Holds the actors of the pass under way; every site of a backbone looks here."""

    def __init__(self) -> None:
        self.actors = Actors()


class LinearSite:
    """A linear layer. Weight: (out, in)."""

    def __init__(self, name: str, module: nn.Linear, switch: SiteSwitch) -> None:
        self.name = name
        self.module = module
        self._switch = switch
        module.forward = self._forward  # type: ignore[method-assign, assignment]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.module.out_features, self.module.in_features

    def _forward(self, x: Tensor) -> Tensor:
        module = self.module
        actor = self._switch.actors.linear.get(self.name)
        if actor is None:
            return F.linear(x, module.weight, module.bias)
        y = actor(x.reshape(-1, x.shape[-1]), module.weight, module.bias)
        return y.view(*x.shape[:-1], y.shape[-1])


class ResidualSite:
    """The place where a sub-layer's output joins the residual stream: after attention, or after feed-forward."""

    def __init__(self, name: str, switch: SiteSwitch) -> None:
        self.name = name
        self._switch = switch

    def join(self, f: Tensor, x: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
        """`norm(f + x)`, or what the acting methods make of it. `f`, `x`: (..., hidden)."""
        actor = self._switch.actors.residual.get(self.name)
        if actor is None:
            return norm(f + x)
        hidden = f.shape[-1]
        return actor(f.reshape(-1, hidden), x.reshape(-1, hidden), norm).view(f.shape)


def linear_sites(model: nn.Module, switch: SiteSwitch) -> dict[str, LinearSite]:
    """A site for every linear layer of `model`."""
    return {
        name: LinearSite(name, module, switch)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
