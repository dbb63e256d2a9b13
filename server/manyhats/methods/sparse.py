"""Sparse fine-tuning: a few changed values of the backbone's parameters (Radiya-Dixit & Wang 2020; diff pruning,
Guo et al. 2021: theta = theta_0 + z * w with most of z zero).

In a slot a linear layer's differences stay sparse where the kernels add them so, else its changed weight is dense
there; of an embedding the changed rows alone are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from manyhats.backbone.sites import EmbeddingSite, LinearSite
from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import Rows
from manyhats.kernels.base import Sparse as Difference
from manyhats.methods.base import BoundComponent, Method, Trainable
from manyhats.methods.component import Component, MethodConfig, StateDict
from manyhats.methods.full_parameters import ParametersConfig, bound_parameters, own_parameter
from manyhats.methods.operations import AddSparse, OwnRows
from manyhats.methods.options import Options
from manyhats.methods.slots import slot_tables
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class SparseConfig(MethodConfig):
    """`mode`: the values are added to the backbone's, or stand in their place."""

    mode: Literal["add", "replace"] = "add"


class Sparse(Method[SparseConfig]):
    """Leaves at a linear, embedding or norm site, for each parameter that changes: `<parameter>.indices` (n,) into the
    flattened parameter (a linear weight as (out, in)), rising, and `<parameter>.values` (n,)."""

    name: ClassVar[str] = "sparse"
    config = SparseConfig

    def check(self, component: Component[SparseConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                _check_pair(leaves, leaf, own.numel(), f"{site}.{leaf}")

    def bind(self, component: Component[SparseConfig], backbone: Backbone) -> BoundComponent:
        dense: dict[str, dict[str, Tensor]] = {}
        tables: dict[str, OwnRows] = {}
        differences: dict[str, AddSparse] = {}
        keeps = slot_tables(backbone).kernels.keeps_sparse
        nbytes = 0
        for site, leaves in component.tensors.items():
            place = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                indices = leaves[f"{leaf}.indices"].to(backbone.device, torch.long)
                values = leaves[f"{leaf}.values"].to(backbone.device, torch.float32)
                if isinstance(place, EmbeddingSite):
                    width = own.shape[1]
                    ids, where = torch.unique(indices // width, return_inverse=True)
                    rows = own[ids].float()
                    _put(rows, where * width + indices % width, values, component.config.mode)
                    changed_rows = rows.to(backbone.dtype)
                    tables[place.name] = OwnRows(Rows(changed_rows, ids))
                    nbytes += changed_rows.nbytes + ids.nbytes
                    continue
                if keeps and isinstance(place, LinearSite) and leaf == "weight":
                    if component.config.mode == "replace":
                        values = values - own.detach().reshape(-1)[indices].float()
                    difference = Difference(indices, values.to(backbone.dtype))
                    differences[place.name] = AddSparse(difference)
                    nbytes += indices.nbytes + difference.values.nbytes
                    continue
                changed = own.detach().to(torch.float32, copy=True).contiguous()
                _put(changed, indices, values, component.config.mode)
                ready = changed.to(backbone.dtype)
                nbytes += ready.nbytes
                dense.setdefault(site, {})[leaf] = ready
        bound = bound_parameters(backbone, dense)
        bound.embedding = tables
        bound.linear = {
            site: [*([differences[site]] if site in differences else []), *bound.linear.get(site, ())]
            for site in {**bound.linear, **differences}
        }
        bound.nbytes = nbytes
        return bound

    def slot_size(self, component: Component[SparseConfig], backbone: Backbone) -> int:
        size = 0
        keeps = slot_tables(backbone).kernels.keeps_sparse
        for site, leaves in component.tensors.items():
            place = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                if keeps and isinstance(place, LinearSite) and leaf == "weight":
                    size += leaves[f"{leaf}.indices"].numel() * (8 + own.element_size())
                    continue
                if isinstance(place, EmbeddingSite):
                    rows = min(leaves[f"{leaf}.indices"].numel(), len(own))
                    size += rows * (8 + own.shape[-1] * own.element_size())  # with the rows' numbers
                    continue
                size += own.nbytes
        return size

    def replaced_weights(self, component: Component[SparseConfig]) -> set[str]:
        return {site for site, leaves in component.tensors.items() if "weight.indices" in leaves}

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        share = chosen.number("share", 0.01, most=1.0)
        pick = chosen.choice("pick", "values", ("values", "parameters"))
        targets = chosen.names("targets", ["all-linear"])
        relaxed = chosen.choice("relaxation", "none", ("none", "l0")) == "l0"
        weight = chosen.number("l0_weight", 0.1)
        chosen.done()
        places = [backbone.linear[site] for site in target_sites(backbone, targets)]
        names = [(p.name, leaf) for p in places for leaf in ("weight", "bias") if p.parameter(leaf) is not None]
        relaxation = _Relaxation(weight, generator) if relaxed else None
        return _TrainableSparse(backbone, names, share, pick, relaxation)


def _changed(leaves: StateDict) -> list[str]:
    """The parameters of a site that change."""
    return sorted({leaf.rpartition(".")[0] for leaf in leaves})


def _check_pair(leaves: StateDict, leaf: str, count: int, name: str) -> None:
    indices, values = leaves.get(f"{leaf}.indices"), leaves.get(f"{leaf}.values")
    if indices is None or values is None:
        raise AdapterMismatch(f"'{name}' needs both indices and values", param=name)
    if indices.dim() != 1 or indices.shape != values.shape or indices.is_floating_point() or not len(indices):
        raise AdapterMismatch(
            f"the indices of '{name}' are {list(indices.shape)} {indices.dtype}, its values {list(values.shape)}; "
            "both must be of one length, the indices whole numbers",
            param=name,
        )
    if int(indices.min()) < 0 or int(indices.max()) >= count:
        raise AdapterMismatch(
            f"the indices of '{name}' run from {int(indices.min())} to {int(indices.max())}, but the backbone's "
            f"parameter has {count} values",
            param=name,
        )
    if bool((indices[1:] <= indices[:-1]).any()):
        raise AdapterMismatch(f"the indices of '{name}' do not rise", param=name)


def _put(whole: Tensor, indices: Tensor, values: Tensor, mode: str) -> None:
    """Changes a contiguous tensor in place."""
    flat = whole.view(-1)
    if mode == "add":
        flat.index_add_(0, indices, values)
    else:
        flat[indices] = values


class _Relaxation:
    """The hard-concrete gates of diff pruning (Guo et al. 2021, section 3.1; Louizos et al. 2018, equations 10 to 12).

    z = clamp(sigmoid(log u - log(1 - u) + alpha) * (high - low) + low, 0, 1), u uniform; the penalty is the share of
    gates that are expected to be open, times `weight`.
    """

    LOW, HIGH = -1.5, 1.5  # as the paper's appendix has them
    START = 5.0  # of alpha

    def __init__(self, weight: float, generator: torch.Generator) -> None:
        self.weight = weight
        self.generator = generator

    def gates(self, strengths: Tensor, *, drawn: bool) -> Tensor:
        """One for each strength; without `drawn` those of u = 1/2."""
        logits = strengths
        if drawn:
            u = torch.rand(strengths.shape, generator=self.generator).clamp_(1e-6, 1 - 1e-6)
            logits = strengths + torch.logit(u).to(strengths.device)
        stretched: Tensor = torch.sigmoid(logits) * (self.HIGH - self.LOW) + self.LOW
        return stretched.clamp(0, 1)

    def penalty(self, strengths: nn.ParameterList) -> Tensor:
        shift = math.log(-self.LOW / self.HIGH)
        opened = torch.stack([torch.sigmoid(s - shift).sum() for s in strengths]).sum()
        share: Tensor = opened / sum(s.numel() for s in strengths)
        return self.weight * share


class _TrainableSparse(Trainable):
    """Two stages: all values may move; then those that moved most are trained again from the backbone, alone.

    With `pick` "values" these are single values (L0-close fine-tuning, Radiya-Dixit & Wang 2020, section 4.1; with a
    `relaxation` diff pruning), with "parameters" whole weights and biases, by their mean movement.
    """

    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        names: list[tuple[str, str]],
        share: float,
        pick: str,
        relaxation: _Relaxation | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names
        self.own = [own_parameter(backbone, site, leaf).detach() for site, leaf in names]
        self.share = share
        self.pick = pick
        self.relaxation = relaxation
        self.differences = nn.ParameterList(
            nn.Parameter(torch.zeros_like(own, dtype=torch.float32)) for own in self.own
        )
        self.strengths = nn.ParameterList()
        if relaxation is not None:
            for own in self.own:
                self.strengths.append(nn.Parameter(torch.full_like(own, relaxation.START, dtype=torch.float32)))
        self.values = nn.ParameterDict()  # in the second stage, by the place in `names`; their indices are buffers

    @property
    def rates(self) -> Mapping[str, float]:
        # `strengths` must cross 5 to close a gate; few `values` must do what all did before
        return {"strengths": 500.0, "values": 30.0}

    def _differences(self) -> list[Tensor]:
        """Of all values, in the first stage."""
        if self.relaxation is None:
            return list(self.differences)
        gates = [self.relaxation.gates(s, drawn=self.training) for s in self.strengths]
        return [gate * difference for gate, difference in zip(gates, self.differences, strict=True)]

    @torch.no_grad()
    def advance(self) -> None:
        moved = [difference.abs() for difference in self._differences()]
        count = max(round(self.share * sum(t.numel() for t in moved)), 1)
        if self.pick == "values":
            least = torch.cat([t.flatten() for t in moved]).topk(count).values[-1]
            chosen = [torch.nonzero(t.flatten() >= least.clamp_min(1e-30))[:, 0] for t in moved]
        else:
            chosen = [torch.empty(0, dtype=torch.long, device=t.device) for t in moved]
            for i in sorted(range(len(moved)), key=lambda i: -float(moved[i].mean())):
                if moved[i].numel() <= count:
                    count -= moved[i].numel()
                    chosen[i] = torch.arange(moved[i].numel(), device=moved[i].device)
        self._keep({i: indices for i, indices in enumerate(chosen) if len(indices)})

    def _keep(self, chosen: Mapping[int, Tensor]) -> None:
        """Begins the second stage with these values of `names`."""
        self.differences, self.strengths = nn.ParameterList(), nn.ParameterList()
        for i, indices in chosen.items():
            self.register_buffer(f"indices{i}", indices)
            self.values[str(i)] = nn.Parameter(torch.zeros(len(indices), device=indices.device))

    def restore(self, stage: int, state: Mapping[str, Any]) -> None:
        if stage:
            found = {int(n.removeprefix("indices")): t for n, t in state.items() if n.startswith("indices")}
            self._keep({i: indices.to(self.own[i].device) for i, indices in found.items()})
        self.load_state_dict(state)

    def _kept(self) -> list[tuple[int, Tensor, Tensor]]:
        """(place in `names`, indices, values)."""
        return [(int(i), self.get_buffer(f"indices{i}"), values) for i, values in self.values.items()]

    def bound(self) -> BoundComponent:
        sites: dict[str, dict[str, Tensor]] = {}
        if len(self.differences):
            for (site, leaf), own, difference in zip(self.names, self.own, self._differences(), strict=True):
                sites.setdefault(site, {})[leaf] = own + difference
            return bound_parameters(self.backbone, sites)
        for i, indices, values in self._kept():
            site, leaf = self.names[i]
            changed = self.own[i].flatten().index_add(0, indices, values.to(self.own[i].dtype))
            sites.setdefault(site, {})[leaf] = changed.view(self.own[i].shape)
        return bound_parameters(self.backbone, sites)

    def penalty(self) -> Tensor | None:
        return None if self.relaxation is None or not len(self.strengths) else self.relaxation.penalty(self.strengths)

    def component(self) -> Component[Any]:
        sites: dict[str, dict[str, Tensor]] = {}
        whole = self.pick == "parameters"
        for i, indices, values in self._kept():
            site, leaf = self.names[i]
            leaves, found = sites.setdefault(site, {}), values.detach().cpu()
            if whole:
                leaves[leaf] = self.own[i].float().cpu() + found.view(self.own[i].shape)
            else:
                leaves |= {f"{leaf}.indices": indices.cpu().int(), f"{leaf}.values": found}
        if whole:
            return Component("parameters", ParametersConfig(), sites, label="sparse")
        return Component(Sparse.name, SparseConfig(mode="add"), sites)
