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
from manyhats.kernels.base import Kernels, LowRank, ScaleAdd, Weight
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    init_gate,
    init_parameter,
    on_device,
    pair_of,
    parameter_key,
)
from manyhats.methods.component import Component, MethodConfig, StateDict, size_of
from manyhats.methods.kronecker import MOST_VALUES, kronecker_sum
from manyhats.methods.operations import OperationKind, gate_rows
from manyhats.methods.options import Options
from manyhats.methods.residual import ResidualGroup, ResidualPass, Tables, in_rows

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


@dataclass(frozen=True, slots=True)
class BottleneckOperation:
    """One adapter at one residual site. `norm_before`, `norm_after`: gain and offset in float32, (hidden,); `gate`:
    weight (1, hidden), bias (1,)."""

    pair: LowRank
    norm_before: ScaleAdd | None
    norm_after: ScaleAdd | None
    gate: Weight | None
    config: BottleneckConfig

    @property
    def kind(self) -> OperationKind:
        return OperationKind("bottleneck", tuple(self._own), self.config, Bottlenecks)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self._own.values())

    @property
    def _own(self) -> dict[str, Any]:
        own = {"pair": self.pair, "norm_before": self.norm_before, "norm_after": self.norm_after, "gate": self.gate}
        return {name: value for name, value in own.items() if value is not None}


class Bottlenecks:
    """Bottleneck adapters with the same flags, of all tasks together. See `methods.residual.ResidualRun`.

    AdapterHub's `Adapter.pre_forward`, `forward` and `post_forward`.
    """

    @staticmethod
    def step(group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        config = group.kind.detail
        assert isinstance(config, BottleneckConfig)
        segments, tables = site.of(group.members), group.tables
        h, _, residual = read(config, group, site, hidden)
        normed = "norm_after" in tables
        first = residual if not normed or config.adapter_residual_before_ln else None
        out = project(site.kernels, config, tables, h, segments, first)
        if normed:
            out = _own_layer_norms(site.kernels, out, tables["norm_after"], segments, config.epsilon)
            if residual is not None and not config.adapter_residual_before_ln:
                done, before = out, residual
                out = in_rows(segments, done, lambda rows: done[rows] + before[rows])
        return out

    @staticmethod
    def finish(group: ResidualGroup, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        config = group.kind.detail
        assert isinstance(config, BottleneckConfig)
        return finish(config, site, hidden, members)


def read(config: BottleneckConfig, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Read:
    """Where the adapters' input and residual come from (`adapters`: `Adapter.pre_forward`)."""
    if config.is_parallel:
        return Read(site.x, site.x, None)
    h = residual = hidden
    if config.original_ln_before:
        h = site.joined if hidden is site.f else site.join(hidden, group.members)
        if config.residual_before_ln == "post_add":
            residual = in_rows(site.of(group.members), hidden, lambda rows: hidden[rows] + site.x[rows])
    if config.residual_before_ln is False:
        residual = h
    return Read(h, hidden, residual)


def project(
    kernels: Kernels, config: BottleneckConfig, tables: Tables, h: Tensor, segments: Segments, first: Tensor | None
) -> Tensor:
    """`first`, or nothing, and what the adapters make of `h`: (rows, hidden) to (rows, hidden)."""
    gates = gate_rows(kernels, h, tables["gate"], segments) if "gate" in tables else None
    if "norm_before" in tables:
        h = _own_layer_norms(kernels, h, tables["norm_before"], segments, config.epsilon)
    out = torch.empty_like(h if first is None else first)
    for rows in segments.runs:
        if first is None:
            out[rows] = 0
        else:
            out[rows] = first[rows]
    kernels.low_rank(h, out, tables["pair"], segments, gates)
    return out


def finish(config: BottleneckConfig, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
    """What goes on in the residual stream behind adapters with these flags."""
    if config.is_parallel:
        alone = hidden
        hidden = in_rows(site.of(members), alone, lambda rows: alone[rows] + site.f[rows])
    return site.join(hidden, members) if config.original_ln_after else hidden


def _own_layer_norms(kernels: Kernels, h: Tensor, table: Table[ScaleAdd], segments: Segments, epsilon: float) -> Tensor:
    """Layer norms with each adapter's own gain and offset: (rows, hidden) to (rows, hidden)."""
    width = h.shape[-1:]
    normed = in_rows(segments, h, lambda rows: F.layer_norm(h[rows].float(), width, None, None, epsilon))
    kernels.scale_add(normed, table, segments)
    return normed.to(h.dtype)


def plain(leaves: StateDict) -> StateDict:
    """A compacter's layers multiplied out: W^T = sum_i rule_i kron (left_i right_i); other leaves as they are."""
    if "rule" not in leaves:
        return leaves
    found = {name: tensor for name, tensor in leaves.items() if name not in _FACTORS}
    for layer in ("down", "up"):
        pieces = leaves[f"{layer}.left"] @ leaves[f"{layer}.right"]
        found[f"{layer}.weight"] = kronecker_sum(leaves["rule"], pieces).T
    return found


def _check_factors(leaves: StateDict, site: str, backbone: Backbone) -> None:
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


class Bottleneck(Method[BottleneckConfig]):
    """Leaves at a residual site: `down.weight`, `down.bias`, `up.weight`, `up.bias`; where the config asks for them
    `norm_before.*`, `norm_after.*`, `gate.*`, `scaling`. In a compacter `rule` (n, n, n), which its sites share, and
    `down.left`, `down.right`, `up.left`, `up.right`, (n, in / n, 1) and (n, 1, out / n), in place of the weights."""

    name: ClassVar[str] = "bottleneck"
    config = BottleneckConfig

    def check(self, component: Component[BottleneckConfig], backbone: Backbone) -> None:
        config = component.config
        activation(config.non_linearity)
        if config.residual_before_ln == "post_add" and not (config.original_ln_before and backbone.family.post_norm):
            raise AdapterMismatch(
                "residual_before_ln 'post_add' needs original_ln_before, and a backbone that norms after the sum",
                param="residual_before_ln",
            )
        hidden = backbone.hidden
        for site, given in component.tensors.items():
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

    def bind(self, component: Component[BottleneckConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: on_device(plain(leaves), backbone) for site, leaves in component.tensors.items()}
        return BoundComponent(
            residual={site: bottleneck_operation(leaves, component.config) for site, leaves in ready.items()},
            nbytes=size_of(ready.values()),
        )

    def rank(self, component: Component[BottleneckConfig]) -> int | None:
        return max(leaves["down.bias"].shape[0] for leaves in component.tensors.values())

    def slot_size(self, component: Component[BottleneckConfig], backbone: Backbone) -> int:
        return size_of(plain(leaves) for leaves in component.tensors.values())

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


def bottleneck_operation(leaves: Mapping[str, Tensor], config: BottleneckConfig) -> BottleneckOperation:
    """An adapter's leaves at one site, ready to act."""
    leaves = plain(leaves)
    scale = leaves.get("scaling", config.scaling)
    gate = pair_of(leaves, "gate")
    return BottleneckOperation(
        pair=LowRank(
            leaves["down.weight"],
            leaves["up.weight"].T.contiguous(),  # as the kernels read it
            leaves["down.bias"],
            leaves["up.bias"],
            config.non_linearity,
            None if isinstance(scale, float) and scale == 1.0 else scale,
        ),
        norm_before=_norm(leaves, "norm_before"),
        norm_after=_norm(leaves, "norm_after"),
        gate=None if gate is None else Weight(*gate),
        config=config,
    )


def _norm(leaves: StateDict, name: str) -> ScaleAdd | None:
    own = pair_of(leaves, name)
    return None if own is None else ScaleAdd(own[0].float(), own[1].float())


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
        self.rule = init_parameter(backbone, (pieces,) * 3, 1e-2, generator) if pieces else None
        shapes = _starts(backbone.hidden, width, pieces)
        self.names = list(shapes)
        for site in sites:
            for name, (shape, spread) in shapes.items():
                self.leaves[parameter_key(site, name)] = init_parameter(backbone, shape, spread, generator)
            if config.use_gating:
                for name, gate in init_gate(backbone, backbone.hidden, generator).items():
                    self.leaves[parameter_key(site, name)] = gate
        if config.use_gating:
            self.names += ["gate.weight", "gate.bias"]

    def _of(self, site: str) -> dict[str, Tensor]:
        leaves: dict[str, Tensor] = {name: self.leaves[parameter_key(site, name)] for name in self.names}
        return leaves if self.rule is None else leaves | {"rule": self.rule}

    def bound(self) -> BoundComponent:
        return BoundComponent(residual={site: bottleneck_operation(self._of(site), self.config) for site in self.sites})

    def component(self) -> Component[BottleneckConfig]:
        return Component(
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
