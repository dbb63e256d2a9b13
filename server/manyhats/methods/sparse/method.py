"""Sparse fine-tuning as a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from manyhats.backbone.sites import EmbeddingSite, LinearSite
from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import Rows
from manyhats.kernels.base import Sparse as Difference
from manyhats.methods.base import BoundComponent, Method, Trainable
from manyhats.methods.component import Component, StateDict
from manyhats.methods.full_parameters.operation import bound_parameters, own_parameter
from manyhats.methods.operations import AddSparse, OwnRows
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.slots import slot_tables
from manyhats.methods.sparse.config import NAME, SparseConfig
from manyhats.methods.sparse.native import NATIVE
from manyhats.methods.sparse.peft import SHIRA
from manyhats.methods.sparse.training import Relaxation, TrainableSparse
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


_INDEX_BYTES = 4
# The largest share of a weight's values that stays sparse in a slot. The time of a sparse difference grows with it:
# among 16 tasks of 100 rows, dense weights become faster at 2 % in bfloat16 and at 3 % in float32. With few tasks they
# are from about 0.5 %, but even at 2 % they take 25 times the memory in float32, and 17 times in bfloat16.
_MOST_KEPT = 0.02


class Sparse(Method[SparseConfig]):
    """Tensors at a linear, embedding or norm site, for each parameter that changes: `<parameter>.indices` (n,) into the
    flattened parameter (a linear weight as (out, in)), rising, and `<parameter>.values` (n,)."""

    name: ClassVar[str] = NAME
    config = SparseConfig
    peft_types = (SHIRA,)
    native = NATIVE
    # No decay: it would pull the values towards the backbone's.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "sparse": Recipe(NAME, Schedule(1e-4, weight_decay=0.0, epochs=4), "Radiya-Dixit & Wang 2020"),
        "diff-pruning": Recipe(
            NAME, Schedule(1e-4, weight_decay=0.0, epochs=4), "Guo et al. 2021", {"relaxation": "l0"}
        ),
    }

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
            module = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                indices = leaves[f"{leaf}.indices"].long()
                values = leaves[f"{leaf}.values"].float()
                if isinstance(module, EmbeddingSite):
                    width = own.shape[1]
                    ids, where = torch.unique(indices // width, return_inverse=True)
                    rows = own[ids].float()
                    _put(rows, where * width + indices % width, values, component.config.mode)
                    changed_rows = rows.to(backbone.dtype)
                    tables[module.name] = OwnRows(Rows(changed_rows, ids))
                    nbytes += changed_rows.nbytes + ids.nbytes
                    continue
                if keeps and _kept_sparse(module, leaf, len(indices), own.numel()):
                    if component.config.mode == "replace":
                        values = values - own.detach().reshape(-1)[indices].float()
                    indices = indices.to(torch.int32)
                    difference = Difference(indices, values.to(backbone.dtype))
                    differences[module.name] = AddSparse(difference)
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

    def reads_weights(self, component: Component[SparseConfig], backbone: Backbone) -> bool:
        if component.config.mode == "replace" or not slot_tables(backbone).kernels.keeps_sparse:
            return True
        return not all(
            _kept_sparse(
                backbone.parameter_site(site),
                leaf,
                leaves[f"{leaf}.indices"].numel(),
                own_parameter(backbone, site, leaf).numel(),
            )
            for site, leaves in component.tensors.items()
            for leaf in _changed(leaves)
        )

    def slot_size(self, component: Component[SparseConfig], backbone: Backbone) -> int:
        size = 0
        keeps = slot_tables(backbone).kernels.keeps_sparse
        for site, leaves in component.tensors.items():
            module = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                count = leaves[f"{leaf}.indices"].numel()
                if keeps and _kept_sparse(module, leaf, count, own.numel()):
                    size += count * (_INDEX_BYTES + own.element_size())
                    continue
                if isinstance(module, EmbeddingSite):
                    rows = min(leaves[f"{leaf}.indices"].numel(), len(own))
                    size += rows * (8 + own.shape[-1] * own.element_size())  # and the rows' indices
                    continue
                size += own.nbytes
        return size

    def replaced_weights(self, component: Component[SparseConfig]) -> set[str]:
        return {site for site, leaves in component.tensors.items() if "weight.indices" in leaves}

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        share = chosen.number("share", 0.01, maximum=1.0)
        pick = chosen.choice("pick", "values", ("values", "parameters"))
        targets = chosen.names("targets", ["all-linear"])
        relaxed = chosen.choice("relaxation", "none", ("none", "l0")) == "l0"
        weight = chosen.number("l0_weight", 0.1)
        chosen.reject_unknown()
        modules = [backbone.linear[site] for site in target_sites(backbone, targets)]
        names = [(p.name, leaf) for p in modules for leaf in ("weight", "bias") if p.parameter(leaf) is not None]
        relaxation = Relaxation(weight, generator) if relaxed else None
        return TrainableSparse(backbone, names, share, pick, relaxation)


def _kept_sparse(module: object, leaf: str, count: int, size: int) -> bool:
    """Whether a parameter's difference stays sparse in the slot, where the kernels support it."""
    few = count <= _MOST_KEPT * size and size < 2**31  # the indices are int32
    return few and isinstance(module, LinearSite) and leaf == "weight"


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
