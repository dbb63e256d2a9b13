"""Sparse fine-tuning: a few changed values of the backbone's parameters (Radiya-Dixit & Wang 2020; diff pruning,
Guo et al. 2021: theta = theta_0 + z * w with most of z zero).

In a slot the changed parameters are dense, but for embeddings, of which the changed rows alone are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from manyhats.backbone.sites import EmbeddingSite
from manyhats.errors import AdapterMismatch
from manyhats.methods.base import Acts, Bound, EmbeddingStep, Leaves, Method, MethodConfig, Part
from manyhats.methods.parameters import add_changes, bound_parameters, own_parameter
from manyhats.methods.token_rows import Rows

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.backbone.sites import LinearSite


class SparseConfig(MethodConfig):
    """`mode`: the values are added to the backbone's, or stand in their place."""

    mode: Literal["add", "replace"] = "add"


class Sparse(Method):
    """Leaves at a linear, embedding or norm site, for each parameter that changes: `<parameter>.indices` (n,) into the
    flattened parameter (a linear weight as (out, in)), rising, and `<parameter>.values` (n,)."""

    name: ClassVar[str] = "sparse"
    config: ClassVar[type[MethodConfig]] = SparseConfig

    def check(self, part: Part, backbone: Backbone) -> None:
        for site, leaves in part.tensors.items():
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                _check_pair(leaves, leaf, own.numel(), f"{site}.{leaf}")

    def bind(self, part: Part, backbone: Backbone) -> Bound:
        assert isinstance(part.config, SparseConfig)
        dense: dict[str, dict[str, Tensor]] = {}
        tables: dict[str, EmbeddingStep] = {}
        nbytes = 0
        for site, leaves in part.tensors.items():
            place = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                indices = leaves[f"{leaf}.indices"].to(backbone.device, torch.long)
                values = leaves[f"{leaf}.values"].to(backbone.device, torch.float32)
                if isinstance(place, EmbeddingSite):
                    width = own.shape[1]
                    ids, where = torch.unique(indices // width, return_inverse=True)
                    rows = own[ids].float()
                    _put(rows, where * width + indices % width, values, part.config.mode)
                    step = Rows(ids, rows.to(backbone.dtype))
                    tables[place.name] = step
                    nbytes += step.rows.nbytes
                    continue
                changed = own.detach().to(torch.float32, copy=True).contiguous()
                _put(changed, indices, values, part.config.mode)
                ready = changed.to(backbone.dtype)
                nbytes += ready.nbytes
                dense.setdefault(site, {})[leaf] = ready
        bound = bound_parameters(backbone, dense)
        bound.embedding = tables
        bound.nbytes = nbytes
        return bound

    def slot_size(self, part: Part, backbone: Backbone) -> int:
        size = 0
        for site, leaves in part.tensors.items():
            place = backbone.parameter_site(site)
            for leaf in _changed(leaves):
                own = own_parameter(backbone, site, leaf)
                most = leaves[f"{leaf}.indices"].numel() * own.shape[-1] * own.element_size()
                size += min(own.nbytes, most) if isinstance(place, EmbeddingSite) else own.nbytes
        return size

    def replaced_weights(self, part: Part) -> set[str]:
        return {site for site, leaves in part.tensors.items() if "weight.indices" in leaves}

    def after_linear(self, x: Tensor, y: Tensor, acts: Acts, site: LinearSite) -> None:
        add_changes(y, acts)


def _changed(leaves: Leaves) -> list[str]:
    """The parameters of a site that change."""
    return sorted({leaf.rpartition(".")[0] for leaf in leaves})


def _check_pair(leaves: Leaves, leaf: str, count: int, name: str) -> None:
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
