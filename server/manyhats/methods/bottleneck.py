"""Bottleneck adapters: a small feed-forward net after a sub-layer (Houlsby et al. 2019; Pfeiffer et al. 2020).

    A(h) = (W_up act(W_down h + b_down) + b_up) * scaling

With f the sub-layer's output and x its residual input, in blocks that normalise after the sum:

    Houlsby     LN(f + A(f) + x)
    Pfeiffer    LN(f + A(LN(f + x)) + x)
    parallel    LN(f + A(x) + x)                                   (He et al. 2021)

The flags are those of AdapterHub's `BnConfig`; several adapters at one site act one after the other (its `Stack`).
In a compacter W_down and W_up are sums of Kronecker products (Karimi Mahabadi et al. 2021, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.activations import activation
from manyhats.methods.base import (
    Bound,
    Leaves,
    Method,
    MethodConfig,
    Norm,
    Pair,
    Part,
    Spans,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    fresh_gate,
    fresh_parameter,
    on_device,
    pair_of,
    parameter_key,
    sequence_gate,
    size_of,
)
from manyhats.methods.kronecker import MOST_VALUES, kronecker_sum
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


_FACTORS = ("rule", "down.left", "down.right", "up.left", "up.right")  # of a compacter


class BottleneckConfig(MethodConfig):
    """The fields of `BnConfig` that change the answer. `scaling` is a number unless a site brings its own."""

    non_linearity: str = "relu"
    is_parallel: bool = False
    original_ln_before: bool = False
    original_ln_after: bool = True
    residual_before_ln: bool | Literal["post_add"] = True
    adapter_residual_before_ln: bool = False
    ln_before: bool = False
    ln_after: bool = False
    use_gating: bool = False
    scaling: float = Field(default=1.0, allow_inf_nan=False)
    epsilon: float = Field(default=1e-5, gt=0)  # of the adapter's own layer norms


class Read(NamedTuple):
    """What an adapter makes of its surroundings before its own weights come in. All (rows, hidden)."""

    hidden: Tensor  # read by the down-projection
    query: Tensor  # read by a fusion's query, where that asks for it before the norm
    residual: Tensor | None  # added to the adapter's output; None for a parallel one


@dataclass(slots=True)
class BottleneckStep:
    """One adapter at one residual site. down: (width, hidden), up: (hidden, width), gate: (1, hidden) and (1,)."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    scaling: Tensor | float  # a number, (1,) or (hidden,)
    norm_before: Pair | None
    norm_after: Pair | None
    gate: Pair | None
    config: BottleneckConfig

    def read(self, hidden: Tensor, f: Tensor, x: Tensor, norm: Norm | None, joined: Tensor) -> Read:
        """Where the adapter's input and residual come from (`adapters`: `Adapter.pre_forward`)."""
        c = self.config
        if c.is_parallel:
            return Read(x, x, None)
        h = residual = query = hidden
        if c.original_ln_before:
            h = joined if hidden is f else _join(hidden, x, norm)
            if c.residual_before_ln == "post_add":
                residual = hidden + x
        if c.residual_before_ln is False:
            residual = h
        return Read(h, query, residual)

    def project(self, h: Tensor) -> Tensor:
        """The adapter without its residual: (rows, hidden) to (rows, hidden)."""
        if self.norm_before is not None:
            h = F.layer_norm(h, h.shape[-1:], *self.norm_before, self.config.epsilon)
        z = activation(self.config.non_linearity)(F.linear(h, self.down, self.down_bias))
        up = F.linear(z, self.up, self.up_bias)
        return up if isinstance(self.scaling, float) and self.scaling == 1.0 else up * self.scaling

    def step(self, hidden: Tensor, f: Tensor, x: Tensor, norm: Norm | None, joined: Tensor, spans: Spans) -> Tensor:
        c = self.config
        h, _, residual = self.read(hidden, f, x, norm, joined)
        out = self.project(h)
        if self.gate is not None:
            out = out * sequence_gate(h, self.gate, spans)
        if residual is not None and c.adapter_residual_before_ln:
            out = out + residual
        if self.norm_after is not None:
            out = F.layer_norm(out, out.shape[-1:], *self.norm_after, c.epsilon)
        if residual is not None and not c.adapter_residual_before_ln:
            out = out + residual
        return out

    def finish(self, hidden: Tensor, f: Tensor, x: Tensor, norm: Norm | None) -> Tensor:
        if self.config.is_parallel:
            hidden = hidden + f
        if not self.config.original_ln_after:
            return hidden
        return _join(hidden, x, norm)


def _join(hidden: Tensor, x: Tensor, norm: Norm | None) -> Tensor:
    return hidden + x if norm is None else norm(hidden + x)


def plain(leaves: Leaves) -> Leaves:
    """A compacter's layers multiplied out: W^T = sum_i rule_i kron (left_i right_i); other leaves as they are."""
    if "rule" not in leaves:
        return leaves
    found = {name: tensor for name, tensor in leaves.items() if name not in _FACTORS}
    for layer in ("down", "up"):
        pieces = leaves[f"{layer}.left"] @ leaves[f"{layer}.right"]
        found[f"{layer}.weight"] = kronecker_sum(leaves["rule"], pieces).T
    return found


def _check_factors(leaves: Leaves, site: str, backbone: Backbone) -> None:
    """Before they are multiplied: a small file can stand for very large matrices."""
    if "rule" not in leaves:
        return
    expect_leaves(leaves, (*_FACTORS, "down.bias"), site)
    pieces = leaves["rule"].shape[0] if leaves["rule"].dim() else 0
    width, hidden = leaves["down.bias"].numel(), backbone.hidden
    if not pieces or hidden % pieces or width % pieces or hidden * width > MOST_VALUES:
        raise AdapterMismatch(
            f"the compacter at {site} has {pieces} products for matrices of {width} by {hidden}; it must divide both, "
            f"and they may have {MOST_VALUES} values",
            param=f"{site}.rule",
        )
    shapes = {name: shape for name, (shape, _) in _starts(hidden, width, pieces).items()} | {"rule": (pieces,) * 3}
    for name in _FACTORS:
        expect_shape(leaves[name], shapes[name], f"{site}.{name}", backbone)


class Bottleneck(Method):
    """Leaves at a residual site: `down.weight`, `down.bias`, `up.weight`, `up.bias`; where the config asks for them
    `norm_before.*`, `norm_after.*`, `gate.*`, `scaling`. In a compacter `rule` (n, n, n), which its sites share, and
    `down.left`, `down.right`, `up.left`, `up.right`, (n, in / n, 1) and (n, 1, out / n), in place of the weights."""

    name: ClassVar[str] = "bottleneck"
    config: ClassVar[type[MethodConfig]] = BottleneckConfig

    def check(self, part: Part, backbone: Backbone) -> None:
        config = part.config
        assert isinstance(config, BottleneckConfig)
        activation(config.non_linearity)
        if config.residual_before_ln == "post_add" and not (config.original_ln_before and backbone.family.post_norm):
            raise AdapterMismatch(
                "residual_before_ln 'post_add' needs original_ln_before, and a backbone that norms after the sum",
                param="residual_before_ln",
            )
        hidden = backbone.hidden
        for site, given in part.tensors.items():
            _check_factors(given, site, backbone)
            leaves = plain(given)
            if site not in backbone.residual:
                reason = "" if backbone.residual else ": its blocks add attention and feed-forward at once"
                raise AdapterMismatch(f"the backbone {backbone.name} has no place called '{site}'{reason}", param=site)
            required = ["down.weight", "down.bias", "up.weight", "up.bias"]
            if config.ln_before:
                required += ["norm_before.weight", "norm_before.bias"]
            if config.ln_after:
                required += ["norm_after.weight", "norm_after.bias"]
            if config.use_gating:
                required += ["gate.weight", "gate.bias"]
            expect_leaves(leaves, required, site)
            width = expect_matrix(leaves["down.weight"], f"{site}.down.weight")
            shapes: dict[str, tuple[int, ...]] = {
                "down.weight": (width, hidden),
                "down.bias": (width,),
                "up.weight": (hidden, width),
                "up.bias": (hidden,),
                "gate.weight": (1, hidden),
                "gate.bias": (1,),
            }
            for name, tensor in leaves.items():
                if name not in (*required, "scaling"):
                    raise AdapterMismatch(f"the adapter's config has no place for '{site}.{name}'", param=name)
                if name == "scaling":
                    if tuple(tensor.shape) not in ((1,), (hidden,)):
                        expect_shape(tensor, (hidden,), f"{site}.scaling", backbone)
                    continue
                expect_shape(tensor, shapes.get(name, (hidden,)), f"{site}.{name}", backbone)

    def bind(self, part: Part, backbone: Backbone) -> Bound:
        assert isinstance(part.config, BottleneckConfig)
        ready = {site: on_device(plain(leaves), backbone) for site, leaves in part.tensors.items()}
        return Bound(
            residual={site: bottleneck_step(leaves, part.config) for site, leaves in ready.items()},
            nbytes=size_of(ready.values()),
        )

    def rank(self, part: Part) -> int | None:
        return max(leaves["down.bias"].shape[0] for leaves in part.tensors.values())

    def slot_size(self, part: Part, backbone: Backbone) -> int:
        return size_of(plain(leaves) for leaves in part.tensors.values())

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        placement = chosen.choice("placement", "houlsby", ("houlsby", "pfeiffer", "parallel"))
        pieces = chosen.integer("kronecker", 0)
        usual = max(backbone.hidden // 16, 1)
        width = chosen.integer("width", -(-usual // pieces) * pieces if pieces else usual, least=1)
        kind = chosen.choice(
            "non_linearity", "gelu" if placement == "houlsby" else "relu", ("relu", "gelu", "tanh", "swish")
        )
        gated = chosen.flag("gated")
        chosen.done()
        if pieces and (width % pieces or backbone.hidden % pieces):
            raise InvalidRequest(
                f"bottleneck: kronecker must divide the width {width} and the hidden size {backbone.hidden}, "
                f"and {pieces} does not",
                param="kronecker",
            )
        if not backbone.residual:
            raise InvalidRequest(
                f"the blocks of {backbone.name} add attention and feed-forward at once, so a bottleneck adapter has no "
                "place there; lora, prefix and mask do",
                param="method",
            )
        config = BottleneckConfig(
            non_linearity=kind,
            is_parallel=placement == "parallel",
            original_ln_before=placement == "pfeiffer",
            scaling=4.0 if placement == "parallel" else 1.0,
            use_gating=gated,
        )
        sites = [s for s in backbone.residual if placement == "houlsby" or s.endswith(".ffn")]
        return _TrainableBottleneck(backbone, sites, width, config, generator, pieces)


def bottleneck_step(leaves: Mapping[str, Tensor], config: BottleneckConfig) -> BottleneckStep:
    """An adapter's leaves at one site, ready to act."""
    leaves = plain(leaves)
    return BottleneckStep(
        down=leaves["down.weight"],
        down_bias=leaves["down.bias"],
        up=leaves["up.weight"],
        up_bias=leaves["up.bias"],
        scaling=leaves.get("scaling", config.scaling),
        norm_before=pair_of(leaves, "norm_before"),
        norm_after=pair_of(leaves, "norm_after"),
        gate=pair_of(leaves, "gate"),
        config=config,
    )


class _TrainableBottleneck(Trainable):
    def __init__(
        self,
        backbone: Backbone,
        sites: list[str],
        width: int,
        config: BottleneckConfig,
        generator: torch.Generator,
        pieces: int,
    ) -> None:
        """`pieces`: of a compacter the n of its Kronecker products, else 0."""
        super().__init__()
        self.sites = sites
        self.config = config
        self.leaves = nn.ParameterDict()
        # The rule is shared by all sites, as the paper has it; started as AdapterHub does.
        self.rule = fresh_parameter(backbone, (pieces,) * 3, 1e-2, generator) if pieces else None
        shapes = _starts(backbone.hidden, width, pieces)
        self.names = list(shapes)
        for site in sites:
            for name, (shape, spread) in shapes.items():
                self.leaves[parameter_key(site, name)] = fresh_parameter(backbone, shape, spread, generator)
            if config.use_gating:
                for name, gate in fresh_gate(backbone, backbone.hidden, generator).items():
                    self.leaves[parameter_key(site, name)] = gate
        if config.use_gating:
            self.names += ["gate.weight", "gate.bias"]

    def _of(self, site: str) -> dict[str, Tensor]:
        leaves: dict[str, Tensor] = {name: self.leaves[parameter_key(site, name)] for name in self.names}
        return leaves if self.rule is None else leaves | {"rule": self.rule}

    def bound(self) -> Bound:
        return Bound(residual={site: bottleneck_step(self._of(site), self.config) for site in self.sites})

    def part(self) -> Part:
        return Part(
            Bottleneck.name,
            self.config,
            {site: {n: t.detach().cpu() for n, t in self._of(site).items()} for site in self.sites},
        )


def _starts(hidden: int, width: int, pieces: int) -> dict[str, tuple[tuple[int, ...], float]]:
    """By leaf: its shape, and how far from zero it starts: the adapter is near the identity (Houlsby, section 3.1)."""
    down, up = {"down.bias": ((width,), 0.0)}, {"up.bias": ((hidden,), 0.0)}
    if not pieces:
        return {"down.weight": ((width, hidden), 1e-2), **down, "up.weight": ((hidden, width), 1e-3), **up}
    factors = {
        "down.left": ((pieces, hidden // pieces, 1), 0.1),
        "down.right": ((pieces, 1, width // pieces), 0.1),
        "up.left": ((pieces, width // pieces, 1), 0.1),
        "up.right": ((pieces, 1, hidden // pieces), 0.1),
    }
    return {**factors, **down, **up}
