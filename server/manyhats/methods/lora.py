"""LoRA: a low-rank difference beside a linear layer (Hu et al. 2021, section 4.1).

y = W x + b + s B A x        A: (r, in), B: (out, r), s = alpha / r  (rsLoRA: alpha / sqrt(r))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import LowRank, ScaleAdd, Weight
from manyhats.messages import first_error
from manyhats.methods.base import (
    BoundComponent,
    EmbeddingStep,
    Method,
    SequenceSlices,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    init_gate,
    pair_of,
    parameter_key,
)
from manyhats.methods.component import Component, MethodConfig, StateDict
from manyhats.methods.operations import AddGatedLowRank, AddLowRank, Operation, ScaleOutput, bytes_of
from manyhats.methods.options import Options
from manyhats.methods.sites import linear_site
from manyhats.methods.targets import target_sites
from manyhats.methods.vera import Shared, pair, projections

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class LoraConfig(MethodConfig):
    """`scales`: s for every site. `dora`: whose definition of DoRA the sites with a `magnitude` follow. `vera`: what A
    and B are made of where the leaves are VeRA's."""

    scales: dict[str, float]
    dora: Literal["peft", "adapterhub"] | None = None
    vera: Shared | None = None


@dataclass(slots=True)
class _Lookup:
    """On an embedding: gain * (E[ids] + s A[:, ids]^T B^T)."""

    down: Tensor  # (vocabulary, r)
    up: Tensor  # (r, dim)
    gain: Tensor | None  # (dim,)

    def __call__(self, ids: Tensor, y: Tensor, spans: SequenceSlices) -> Tensor:
        out = y + F.embedding(ids, self.down) @ self.up
        return out if self.gain is None else out * self.gain


class Lora(Method[LoraConfig]):
    """Leaves at a linear site: `A` (r, in), `B` (out, r); `magnitude` (out,) of DoRA, `bias` (out,) in place of the
    backbone's, `bias_B` (out,) of B itself, `gate.weight` (1, in) and `gate.bias` (1,). At an embedding: `A`
    (r, vocabulary), `B` (dim, r), `magnitude` (dim,). Of VeRA `lambda_b` (out,) and `lambda_d` (r,) alone."""

    name: ClassVar[str] = "lora"
    config = LoraConfig
    tied_to_lm_head_ok = False

    def check(self, component: Component[LoraConfig], backbone: Backbone) -> None:
        unscaled = [site for site in component.tensors if site not in component.config.scales]
        if unscaled:
            raise AdapterMismatch(f"the config has no scale for the LoRA at {unscaled[0]}", param="scales")
        if component.config.vera is not None:
            _check_vera(component, component.config.vera, backbone)
            return
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("A", "B"), site)
            table = backbone.embedding.get(backbone.bare_name(site))
            shapes: dict[str, tuple[int, ...]] = {}
            if table is not None:
                out, width = table.module.embedding_dim, table.module.num_embeddings
            else:
                out, width = linear_site(backbone, site).shape
                shapes |= {"bias": (out,), "bias_B": (out,), "gate.weight": (1, width), "gate.bias": (1,)}
            shapes["magnitude"] = (out,)
            rank = expect_matrix(leaves["A"], f"{site}.lora_A")
            expect_shape(leaves["A"], (rank, width), f"{site}.lora_A", backbone)
            expect_shape(leaves["B"], (out, rank), f"{site}.lora_B", backbone)
            for leaf, tensor in leaves.items():
                if leaf in ("A", "B"):
                    continue
                if leaf not in shapes:
                    raise AdapterMismatch(f"a LoRA has no place for '{leaf}' at {site}", param=leaf)
                expect_shape(tensor, shapes[leaf], f"{site}.{leaf}", backbone)
            if ("gate.weight" in leaves) != ("gate.bias" in leaves):
                raise AdapterMismatch(f"the gate at {site} needs a weight and a bias", param=site)
            if ("magnitude" in leaves) != (component.config.dora is not None):
                raise AdapterMismatch(f"DoRA's magnitudes and the config do not agree at {site}", param=site)

    def bind(self, component: Component[LoraConfig], backbone: Backbone) -> BoundComponent:
        linear: dict[str, list[Operation]] = {}
        embedding: dict[str, EmbeddingStep] = {}
        nbytes = 0
        for site, given in _multiplied(component, backbone):
            leaves = {leaf: tensor.to(backbone.device, torch.float32) for leaf, tensor in given.items()}
            scale = component.config.scales[site]
            table = backbone.embedding.get(backbone.bare_name(site))

            def ready(tensor: Tensor) -> Tensor:
                return tensor.to(backbone.dtype).contiguous()

            if table is not None:
                gain = _embedding_gain(leaves, table.module.weight.float(), scale)
                look_up = _Lookup(
                    ready(leaves["A"].T), ready(leaves["B"].T * scale), None if gain is None else ready(gain)
                )
                embedding[table.name] = look_up
                nbytes += look_up.down.nbytes + look_up.up.nbytes
                continue
            place = backbone.site_of(site)
            gain = _gain(leaves, place.weight, scale, component.config.dora)
            offset = _offset(leaves, place.bias, scale, gain, component.config.dora)
            up = leaves["B"].T * scale
            pair = LowRank(ready(leaves["A"]), ready(up if gain is None else up * gain))
            gate = Weight(ready(leaves["gate.weight"]), ready(leaves["gate.bias"])) if "gate.weight" in leaves else None
            linear[place.name] = _operations(
                pair, None if gain is None else ready(gain), None if offset is None else ready(offset), gate
            )
            nbytes += sum(bytes_of(operation) for operation in linear[place.name])
        return BoundComponent(linear=linear, embedding=embedding, nbytes=nbytes)

    def rank(self, component: Component[LoraConfig]) -> int | None:
        if component.config.vera is not None:
            return component.config.vera.rank
        return max(leaves["A"].shape[0] for leaves in component.tensors.values())

    def slot_size(self, component: Component[LoraConfig], backbone: Backbone) -> int:
        if component.config.vera is None:
            return component.nbytes
        sizes = (sum(backbone.site_of(site).shape) for site in component.tensors)
        return sum(sizes) * component.config.vera.rank * backbone.dtype.itemsize

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        variant = chosen.choice("variant", "lora", ("lora", "rslora", "dora", "vera"))
        rank = chosen.integer("rank", 256 if variant == "vera" else 8, least=1)
        targets = chosen.names("targets", ["all-linear"])
        if variant == "vera":
            key = chosen.integer("key", 0)
            chosen.done()
            return _TrainableVera(backbone, target_sites(backbone, targets), rank, key)
        alpha = chosen.number("alpha", 2.0 * rank)
        gated = chosen.flag("gated")
        chosen.done()
        scale = alpha / math.sqrt(rank) if variant == "rslora" else alpha / rank
        made = _TrainableLora(backbone, target_sites(backbone, targets), rank, scale, variant == "dora", generator)
        if gated:
            made.add_gates(backbone, generator)
        return made


def _check_vera(component: Component[LoraConfig], shared: Shared, backbone: Backbone) -> None:
    for site, leaves in component.tensors.items():
        expect_leaves(leaves, ("lambda_b", "lambda_d"), site)
        out, width = linear_site(backbone, site).shape
        expect_shape(leaves["lambda_b"], (out,), f"{site}.lambda_b", backbone)
        expect_shape(leaves["lambda_d"], (shared.rank,), f"{site}.lambda_d", backbone)
        if out > shared.outputs or width > shared.inputs:
            raise AdapterMismatch(
                f"VeRA's matrices are made for layers of at most {shared.inputs} inputs and {shared.outputs} outputs, "
                f"but {site} has {width} and {out}",
                param=site,
            )


def _multiplied(component: Component[LoraConfig], backbone: Backbone) -> Iterator[tuple[str, StateDict]]:
    """The leaves by site, VeRA's as `A` and `B`."""
    if component.config.vera is None:
        yield from component.tensors.items()
        return
    down, up = projections(component.config.vera)
    for site, leaves in component.tensors.items():
        width = backbone.site_of(site).shape[1]
        yield site, pair(leaves["lambda_b"].float(), leaves["lambda_d"].float(), down, up, width)


def _operations(pair: LowRank, gain: Tensor | None, offset: Tensor | None, gate: Weight | None) -> list[Operation]:
    """y = gain * y + offset + gate(x) * (down x) up, each only where it is there. gain, offset: (out,)."""
    found: list[Operation] = []
    if gain is not None or offset is not None:
        found.append(ScaleOutput(ScaleAdd(gain, offset)))
    found.append(AddLowRank(pair) if gate is None else AddGatedLowRank(pair, gate))
    return found


def _gain(leaves: StateDict, weight: Tensor, scale: float, dora: str | None) -> Tensor | None:
    """DoRA's m / n (Liu et al. 2024, equation 5): n the norm of each output's row of the adapted weight (out, in).

    AdapterHub leaves the scale out of n.
    """
    if "magnitude" not in leaves:
        return None
    factor = scale if dora == "peft" else 1.0
    adapted = weight.float() + factor * (leaves["B"] @ leaves["A"])
    gain: Tensor = leaves["magnitude"] / torch.linalg.vector_norm(adapted, dim=1)
    return gain


def _offset(
    leaves: StateDict, bias: Tensor | None, scale: float, gain: Tensor | None, dora: str | None
) -> Tensor | None:
    """What is added once the gain has taken hold: PEFT's DoRA leaves the bias as it is, AdapterHub's scales it."""
    own = leaves.get("bias")
    offset: Tensor | None = None
    if gain is not None and dora == "peft" and bias is not None:
        offset = (1 - gain) * bias.float()
    if own is not None:
        change = own if bias is None else own - bias.float()
        offset = change if offset is None else offset + change
    if "bias_B" in leaves:
        more = scale * leaves["bias_B"]
        more = more if gain is None else more * gain
        offset = more if offset is None else offset + more
    return offset


def _embedding_gain(leaves: StateDict, table: Tensor, scale: float) -> Tensor | None:
    """DoRA's m / n for a table (vocabulary, dim): the norm over the vocabulary of each dimension."""
    if "magnitude" not in leaves:
        return None
    adapted = table + scale * (leaves["B"] @ leaves["A"]).T
    gain: Tensor = leaves["magnitude"] / torch.linalg.vector_norm(adapted, dim=0)
    return gain


class _TrainableLora(Trainable):
    def __init__(
        self,
        backbone: Backbone,
        sites: Sequence[str],
        rank: int,
        scale: float,
        decomposed: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sites = list(sites)
        self.places = [backbone.linear[site] for site in sites]
        self.scale = scale
        self.dora: Literal["peft"] | None = "peft" if decomposed else None
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        self.magnitudes = nn.ParameterList()
        for site in self.sites:
            out, width = backbone.linear[site].shape
            # PEFT's initialisation: A uniform as nn.Linear's, B zero, so that training starts from the backbone.
            a = torch.empty(rank, width)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            self.down.append(nn.Parameter(a.to(backbone.device)))
            self.up.append(nn.Parameter(torch.zeros(out, rank, device=backbone.device)))
            if decomposed:
                norms = torch.linalg.vector_norm(backbone.linear[site].weight.float(), dim=1)
                self.magnitudes.append(nn.Parameter(norms))
        self.gates = nn.ParameterDict()

    def add_gates(self, backbone: Backbone, generator: torch.Generator) -> None:
        """One for each site (UniPELT)."""
        for site in self.sites:
            for name, value in init_gate(backbone, backbone.linear[site].shape[1], generator).items():
                self.gates[parameter_key(site, name)] = value

    def _leaves(self) -> dict[str, dict[str, Tensor]]:
        pairs = zip(self.sites, self.down, self.up, strict=True)
        sites: dict[str, dict[str, Tensor]] = {site: {"A": a, "B": b} for site, a, b in pairs}
        for site, magnitude in zip(self.sites, self.magnitudes, strict=False):
            sites[site]["magnitude"] = magnitude
        if len(self.gates):
            for site, leaves in sites.items():
                leaves |= {name: self.gates[parameter_key(site, name)] for name in ("gate.weight", "gate.bias")}
        return sites

    def bound(self) -> BoundComponent:
        linear: dict[str, list[Operation]] = {}
        for place, (site, leaves) in zip(self.places, self._leaves().items(), strict=True):
            up = leaves["B"].T * self.scale
            own = pair_of(leaves, "gate")
            gate = None if own is None else Weight(*own)
            if self.dora is None:
                linear[site] = _operations(LowRank(leaves["A"], up), None, None, gate)
                continue
            # The norm is taken as a constant, which the paper found to cost nothing (section 4.3).
            fixed = {name: t if name == "magnitude" else t.detach() for name, t in leaves.items()}
            gain = _gain(fixed, place.weight, self.scale, self.dora)
            assert gain is not None
            offset = _offset(fixed, place.bias, self.scale, gain, self.dora)
            linear[site] = _operations(LowRank(leaves["A"], up * gain), gain, offset, gate)
        return BoundComponent(linear=linear)

    def component(self) -> Component[LoraConfig]:
        return Component(
            Lora.name,
            LoraConfig(scales=dict.fromkeys(self.sites, self.scale), dora=self.dora),
            {site: {n: t.detach().cpu() for n, t in leaves.items()} for site, leaves in self._leaves().items()},
        )


class _TrainableVera(Trainable):
    """The two vectors of every site. lambda_d starts at 0.1 and lambda_b at zero, as in the paper (section 4)."""

    def __init__(self, backbone: Backbone, sites: Sequence[str], rank: int, key: int) -> None:
        super().__init__()
        self.shapes = {site: backbone.linear[site].shape for site in sites}
        outputs, inputs = (max(shape[i] for shape in self.shapes.values()) for i in (0, 1))
        try:
            shared = Shared(rank=rank, key=key, outputs=outputs, inputs=inputs)
        except ValidationError as error:
            raise InvalidRequest(f"lora: {first_error(error).message}", param="rank") from None
        self.config = LoraConfig(scales=dict.fromkeys(sites, 1.0), vera=shared)
        down, up = projections(shared)
        self.down, self.up = down.to(backbone.device), up.to(backbone.device)
        self.lambdas = nn.ParameterDict()
        for site, (out, _) in self.shapes.items():
            b, d = torch.zeros(out), torch.full((rank,), 0.1)
            self.lambdas[parameter_key(site, "lambda_b")] = nn.Parameter(b.to(backbone.device))
            self.lambdas[parameter_key(site, "lambda_d")] = nn.Parameter(d.to(backbone.device))

    def _of(self, site: str) -> dict[str, Tensor]:
        return {name: self.lambdas[parameter_key(site, name)] for name in ("lambda_b", "lambda_d")}

    def bound(self) -> BoundComponent:
        linear = {}
        for site, (_, width) in self.shapes.items():
            own = pair(**self._of(site), down=self.down, up=self.up, width=width)
            linear[site] = [AddLowRank(LowRank(own["A"], own["B"].T))]
        return BoundComponent(linear=linear)

    def component(self) -> Component[LoraConfig]:
        sites = {site: {n: t.detach().cpu() for n, t in self._of(site).items()} for site in self.shapes}
        return Component(Lora.name, self.config, sites, label="vera")
